//! `edge-agent clock`: what is known of the time here, and what that means for taps. Exits 1 when taps have to wait for
//! their time, and shows what the kernel says even when no agent is running.

use std::fmt::Write;
use std::process::ExitCode;

use edge_agent::anchors::{AnchorReport, ClockReport, ReceiptReport};
use edge_agent::clock;
use edge_agent::config::Config;
use edge_agent::control::{Request, Response};
use edge_agent::now::Now;
use tap_protocol::record::ClockState;

use super::{Output, ask, complain, say};

pub fn clock(config: &Config, output: Output) -> ExitCode {
    let report = match ask(config, &Request::Clock) {
        Ok(Response::Clock(report)) => report,
        Ok(_) => {
            complain("the agent answered something else");
            return ExitCode::FAILURE;
        }
        Err(code) => {
            if let Output::Text = output {
                say(&kernel(&clock::read()));
            }
            return code;
        }
    };
    match output {
        Output::Json => say(&(serde_json::to_string_pretty(&*report).unwrap_or_default() + "\n")),
        Output::Text => say(&text(&report)),
    }
    if report.taps.is_known() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the kernel says.
fn kernel(now: &Now) -> String {
    let state = match now.clock {
        ClockState::Synced => "synchronised: the kernel vouches for it",
        ClockState::Unsynced => "not synchronised: nobody vouches for it",
        ClockState::Stepped => {
            "not synchronised, and set by hand since the agent started: nobody vouches for it"
        }
    };
    format!("{:<12}{}\n{:<12}{state}\n", "wall clock", utc(now.wall_ms), "")
}

fn text(report: &ClockReport) -> String {
    let now = Now { boottime_ms: report.boottime_ms, wall_ms: report.wall_ms, clock: report.clock };
    let mut out = kernel(&now);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("boot", format!("{}, {} ago", report.boot_id, span(report.boottime_ms)));
    if report.steps > 0 {
        line("set", format!("{} times since the agent started", report.steps));
    }
    match &report.last_receipt {
        Some(ReceiptReport { age_ms, round_trip_ms, wall_off_ms }) => line(
            "cloud",
            format!(
                "the wall clock {}, by the last receipt, {} ago ({round_trip_ms} ms there and back)",
                compared(*wall_off_ms),
                span(*age_ms)
            ),
        ),
        None => line("cloud", "no receipt has answered a hello yet".into()),
    }
    for AnchorReport { source, age_ms, uncertainty_ms } in &report.anchors {
        line("anchor", format!("{source}, ± {uncertainty_ms} ms, {} ago", span(*age_ms)));
    }
    line("taps", report.taps.sentence().into());
    out
}

fn compared(wall_off_ms: i64) -> String {
    match wall_off_ms {
        0 => "agrees with the cloud's".into(),
        ahead @ 1.. => format!("was {} ahead of the cloud's", span(ahead.unsigned_abs())),
        behind => format!("was {} behind the cloud's", span(behind.unsigned_abs())),
    }
}

fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms} ms"),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `2026-11-21 08:00:00 UTC`: days to civil date by Howard Hinnant's algorithm, which holds for any year.
pub(super) fn utc(wall_ms: i64) -> String {
    let (days, second) = (wall_ms.div_euclid(86_400_000), wall_ms.rem_euclid(86_400_000) / 1_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_agent::anchors::TapTime;
    use tap_protocol::ids::BootId;

    #[test]
    fn wall_clocks_are_shown_whatever_the_year() {
        for (wall_ms, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_827_696_000, "2000-02-29 12:34:56 UTC"),
            (1_795_248_000_000, "2026-11-21 08:00:00 UTC"),
            (2_943_043_199_000, "2063-04-05 23:59:59 UTC"),
        ] {
            assert_eq!(utc(wall_ms), shown);
        }
    }

    #[test]
    fn a_door_without_ntp_reads_well() {
        let report = ClockReport {
            boot_id: BootId([0xb0; 16]),
            boottime_ms: 240_000,
            wall_ms: 240_000,
            clock: ClockState::Stepped,
            steps: 2,
            anchors: vec![AnchorReport { source: "receipt".into(), age_ms: 180_000, uncertainty_ms: 20 }],
            last_receipt: Some(ReceiptReport { age_ms: 60_000, round_trip_ms: 38, wall_off_ms: -86_400_000 }),
            taps: TapTime::Receipts,
        };
        let boot = "b0".repeat(16);
        let expected = [
            "wall clock  1970-01-01 00:04:00 UTC",
            "            not synchronised, and set by hand since the agent started: nobody vouches for it",
            &format!("boot        {boot}, 4 min ago"),
            "set         2 times since the agent started",
            "cloud       the wall clock was 24 h behind the cloud's, by the last receipt, 60 s ago (38 ms there and back)",
            "anchor      receipt, ± 20 ms, 3 min ago",
            "taps        taps recorded now get their true time from the cloud's receipts",
            "",
        ];
        assert_eq!(text(&report), expected.join("\n"));
    }
}
