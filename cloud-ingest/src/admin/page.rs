//! Beside the line: the admin pages as HTML. Pure: a snapshot in, markup out.

use std::collections::HashMap;

use tap_protocol::hello::ReaderState;
use tap_protocol::ids::ControllerId;

use super::html::{Html, put};
use crate::api::view;
use crate::destination::fields::local_time;
use crate::event_store::replays::{Letters, ReplayState};
use crate::event_store::{
    ControllerState, DeliveryRow, DeliveryState, DestinationState, EventDetail, EventRow, HeldFor, Hindrance,
    Site, TapRow, Totals, UtcMs, WatermarkRow,
};
use crate::read_model::explain::{self, Stage};
use crate::read_model::lag::{self, Cause};
use crate::read_model::ledger::Ledger;

/// Everything that the overview shows, read at one moment.
pub struct Snapshot {
    /// That moment.
    pub now: UtcMs,
    /// Why the process is not ready; empty if it is.
    pub complaints: Vec<String>,
    /// The numbers.
    pub ledger: Ledger,
    /// The destinations with their holds.
    pub destinations: Vec<DestinationState>,
    /// How far they were told that taps are complete.
    pub watermarks: Vec<WatermarkRow>,
    /// For their time zones.
    pub sites: Vec<Site>,
    /// All controllers.
    pub controllers: Vec<ControllerState>,
    /// The latest taps, newest first.
    pub taps: Vec<EventRow>,
    /// What waits for a person.
    pub letters: Vec<Letters>,
    /// The latest replays.
    pub replays: Vec<ReplayState>,
}

/// The whole page.
pub fn overview(snapshot: &Snapshot) -> Html {
    let mut page = Html::default();
    head(&mut page, "Overview");
    page.append(live(snapshot));
    foot(&mut page);
    page
}

/// The parts that change, each under its id.
pub fn live(snapshot: &Snapshot) -> Html {
    let mut page = Html::default();
    health(&mut page, snapshot);
    tiles(&mut page, snapshot);
    super::letters::section(&mut page, snapshot);
    controllers(&mut page, snapshot);
    taps(&mut page, snapshot);
    page
}

/// One event with its story.
pub fn event(detail: &EventDetail, destinations: &[DestinationState], zone: &str, now: UtcMs) -> Html {
    let row = &detail.row;
    let mut page = Html::default();
    head(&mut page, "Event");
    put!(page, "<p class=\"back\"><a href=\"/\">← Overview</a></p>");
    put!(page, "<section class=\"card\" aria-labelledby=\"story\"><h2 id=\"story\">{}</h2>", title(row));
    put!(page, "<p class=\"sentence\">{}</p>", explain::sentence(detail, destinations, now));
    put!(page, "<ol class=\"steps\">");
    for step in explain::steps(detail) {
        put!(
            page,
            "<li class=\"{}\"><span class=\"what\"><b>{}</b> {}</span>",
            step.step,
            step.step,
            step.what
        );
        time(&mut page, step.at, zone, now, Precision::Milliseconds);
        put!(page, "</li>");
    }
    put!(page, "</ol></section>");

    if !detail.attempts.is_empty() {
        put!(
            page,
            "<section class=\"card\"><div class=\"scroll\"><table><caption>Answers</caption><thead><tr><th scope=\"col\">Attempt</th><th scope=\"col\">Outcome</th><th scope=\"col\">HTTP</th><th scope=\"col\">What was said</th></tr></thead><tbody>"
        );
        for attempt in &detail.attempts {
            let is_last = !detail
                .attempts
                .iter()
                .any(|a| a.destination == attempt.destination && a.number > attempt.number);
            let open_end = if is_last { "no answer yet" } else { "not known: the service stopped" };
            let status = attempt.status.map(|status| status.to_string()).unwrap_or_else(|| "–".into());
            put!(
                page,
                "<tr><th scope=\"row\">{} · {}</th><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
                attempt.destination,
                attempt.number,
                attempt.outcome.as_deref().unwrap_or(open_end).replace('_', " "),
                status,
                attempt.answer.as_deref().unwrap_or(""),
            );
        }
        put!(page, "</tbody></table></div></section>");
    }

    put!(
        page,
        "<section class=\"card\" aria-labelledby=\"facts\"><h2 id=\"facts\">Facts</h2><dl class=\"facts\">"
    );
    let mut fact = |name: &str, value: String| put!(page, "<dt>{}</dt><dd><code>{}</code></dd>", name, value);
    fact("Event id, idempotency key", row.event_id.to_string());
    fact("Controller", row.controller.to_string());
    fact("Outbox, record", format!("{} · {}", row.outbox, row.seq));
    fact("Position", row.position.0.to_string());
    if let Some(tap) = &row.tap {
        fact("Badge token", tap.badge.token.to_string());
        fact("Roster said", tap.verdict.name().into());
    }
    fact("Chain hash", detail.hash.to_string());
    fact("Trace", row.event_id.trace_id().to_string());
    for (destination, body) in &detail.bodies {
        fact(&format!("Body to {destination}"), body.clone());
    }
    put!(page, "</dl></section>");
    foot(&mut page);
    page
}

/// For a link that leads nowhere.
pub fn no_such_event() -> Html {
    let mut page = Html::default();
    head(&mut page, "Not found");
    put!(
        page,
        "<section class=\"card\"><h2>No such event</h2><p>Nothing is stored under this id.</p><p><a href=\"/\">← Overview</a></p></section>"
    );
    foot(&mut page);
    page
}

/// Each controller's time zone.
pub fn zones(sites: &[Site], controllers: &[ControllerState]) -> HashMap<ControllerId, String> {
    let zone_of: HashMap<&str, &str> = sites.iter().map(|s| (s.id.as_str(), s.zone.as_str())).collect();
    let zone = |c: &ControllerState| {
        let zone = zone_of.get(c.controller.site.as_str()).copied().unwrap_or("UTC");
        (c.controller.id.clone(), zone.to_owned())
    };
    controllers.iter().map(zone).collect()
}

pub(super) fn head(page: &mut Html, title: &str) {
    put!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{} · Tapline</title>\
         <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"/admin.css\">\
         <script src=\"/admin.js\" defer></script></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to content</a>\
         <header><h1><a href=\"/\"><span class=\"mark\" aria-hidden=\"true\"></span>Tapline</a></h1>\
         <nav aria-label=\"Elsewhere\"><a href=\"/differences\">Differences</a>\
         <a href=\"/api/v1/events\">Events (JSON)</a>\
         <a href=\"/api/v1/ledger\">Ledger</a><a href=\"/metrics\">Metrics</a></nav></header><main id=\"main\">",
        title
    );
}

pub(super) fn foot(page: &mut Html) {
    put!(page, "</main><footer>cloud-ingest {}</footer></body></html>", env!("CARGO_PKG_VERSION"));
}

/// One line for all that is wrong; read out when it changes.
fn health(page: &mut Html, snapshot: &Snapshot) {
    put!(page, "<section id=\"health\" data-live aria-live=\"polite\" aria-label=\"Health\">");
    let held = snapshot.destinations.iter().filter_map(|d| Some((d, d.hindrance(snapshot.now)?)));
    let complaints = snapshot.complaints.iter().chain(&snapshot.ledger.complaints);
    let mut lines = 0;
    for complaint in complaints {
        lines += 1;
        put!(page, "<p class=\"banner bad\"><b>Trouble</b> {}</p>", complaint);
    }
    for (destination, hindrance) in held {
        lines += 1;
        put!(
            page,
            "<p class=\"banner {}\"><b>{} is {}</b> {}</p>",
            if hindrance.needs_person { "bad" } else { "warn" },
            destination.destination,
            hindrance.what,
            hindrance.why
        );
    }
    for row in snapshot.watermarks.iter().filter(|row| row.trouble.is_some() || row.is_behind(snapshot.now)) {
        lines += 1;
        put!(
            page,
            "<p class=\"banner warn\"><b>{} is behind</b> {}</p>",
            row.destination,
            view::Watermark::of(row, snapshot.now).sentence()
        );
    }
    let dead = snapshot.ledger.in_state(DeliveryState::Dead);
    if dead > 0 {
        lines += 1;
        put!(
            page,
            "<p class=\"banner warn\"><b>Refused for good: {}</b> A person has to look at these taps.</p>",
            grouped(dead)
        );
    }
    let Totals { disputed, unresolved, .. } = snapshot.ledger.totals;
    for (count, what, why) in [
        (disputed, "Time in dispute", "Clocks contradict each other: a person has to look at them."),
        (
            unresolved,
            "Set aside without time",
            "A day has passed, and nothing has said when these taps were.",
        ),
    ] {
        if count > 0 {
            lines += 1;
            put!(page, "<p class=\"banner warn\"><b>{}: {}</b> {}</p>", what, grouped(count), why);
        }
    }
    let to_look_at: Vec<_> = snapshot
        .controllers
        .iter()
        .filter(|state| severity(lag::of(state, snapshot.now).cause) == "bad")
        .map(|state| state.controller.label.as_str())
        .collect();
    if let Some((first, more)) = to_look_at.split_first() {
        lines += 1;
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        put!(page, "<p class=\"banner warn\"><b>Needs a look</b> {}{}</p>", first, more);
    }
    if lines == 0 {
        put!(
            page,
            "<p class=\"banner good\"><b>All is well</b> Store, broker and destination are at work.</p>"
        );
    }
    put!(page, "</section>");
}

fn tiles(page: &mut Html, snapshot: &Snapshot) {
    let count = |state| snapshot.ledger.in_state(state);
    let set_aside = snapshot.ledger.totals.unresolved;
    let waiting = [
        (count(DeliveryState::Pending), "due"),
        (count(DeliveryState::InFlight), "in flight"),
        (count(DeliveryState::Parked).saturating_sub(set_aside), "behind another"),
        (count(DeliveryState::Held), "held for time or badge"),
        (set_aside, "set aside without time"),
    ];
    let parts: Vec<String> = waiting
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{} {word}", grouped(*count)))
        .collect();
    let waiting_sum: u64 = waiting.iter().map(|(count, _)| count).sum();

    put!(page, "<section id=\"tiles\" data-live aria-label=\"Numbers\"><dl class=\"tiles\">");
    let taps = format!("of {} taps", grouped(snapshot.ledger.totals.taps));
    tile(page, "Delivered", "good", count(DeliveryState::Delivered), &taps);
    let said = if parts.is_empty() { "nothing in line".into() } else { parts.join(", ") };
    tile(page, "Waiting", "calm", waiting_sum, &said);
    let unknown = count(DeliveryState::Unknown);
    tile(page, "Unknown", if unknown > 0 { "warn" } else { "calm" }, unknown, "sent, no clear answer");
    let dead = count(DeliveryState::Dead);
    tile(page, "Dead", if dead > 0 { "bad" } else { "calm" }, dead, "refused, need a person");
    for destination in &snapshot.destinations {
        let (word, class) = match (destination.hindrance(snapshot.now), destination.oldest_open_received) {
            (Some(Hindrance { what, until: Some(until), .. }), _) => {
                (format!("{what} for {}", duration(until.0 - snapshot.now.0)), "warn")
            }
            (Some(Hindrance { what, needs_person, .. }), _) => {
                (what.to_owned(), if needs_person { "bad" } else { "warn" })
            }
            (None, Some(oldest)) => (format!("oldest waits {}", duration(snapshot.now.0 - oldest.0)), "calm"),
            (None, None) => ("up to date".into(), "good"),
        };
        put!(
            page,
            "<div class=\"tile {}\"><dt>Destination</dt><dd class=\"name\">{}</dd><dd class=\"sub\">{}</dd></div>",
            class,
            destination.destination,
            word
        );
    }
    put!(page, "</dl></section>");
}

fn tile(page: &mut Html, name: &str, class: &str, number: u64, sub: &str) {
    put!(
        page,
        "<div class=\"tile {}\"><dt>{}</dt><dd class=\"number\">{}</dd><dd class=\"sub\">{}</dd></div>",
        class,
        name,
        grouped(number),
        sub
    );
}

fn controllers(page: &mut Html, snapshot: &Snapshot) {
    put!(
        page,
        "<section id=\"controllers\" data-live class=\"card\"><div class=\"scroll\"><table><caption>Controllers</caption><thead><tr><th scope=\"col\">Controller</th><th scope=\"col\">Status</th><th scope=\"col\" class=\"num\">To come</th><th scope=\"col\" class=\"num\">Lag</th><th scope=\"col\">Last hello</th><th scope=\"col\">Readers</th><th scope=\"col\">Clock</th></tr></thead><tbody>"
    );
    let sites: HashMap<&str, &str> =
        snapshot.sites.iter().map(|s| (s.id.as_str(), s.label.as_str())).collect();
    for state in &snapshot.controllers {
        let lag = lag::of(state, snapshot.now);
        let c = &state.controller;
        let site = sites.get(c.site.as_str()).copied().unwrap_or(&c.site);
        put!(
            page,
            "<tr><th scope=\"row\"><span class=\"main\">{}</span><span class=\"sub\">{} · {}</span></th>",
            c.label,
            c.id,
            site
        );
        put!(
            page,
            "<td><span class=\"pill {}\" title=\"{}\">{}</span></td>",
            severity(lag.cause),
            lag.cause.sentence(),
            lag.cause.name().replace('_', " ")
        );
        let lag_text = if lag.records == 0 { "–".to_owned() } else { duration(lag.ms as i64) };
        put!(page, "<td class=\"num\">{}</td><td class=\"num\">{}</td>", grouped(lag.records), lag_text);
        match &state.hello {
            Some(hello) => {
                put!(page, "<td>{} ago</td><td>", duration(snapshot.now.0 - hello.received.0));
                for reader in &hello.hello.readers {
                    let (class, word) = match reader.state {
                        ReaderState::Up => ("good", "up"),
                        ReaderState::Starting => ("calm", "starting"),
                        ReaderState::Down => ("bad", "down"),
                    };
                    put!(page, "<span class=\"pill {}\">{} {}</span> ", class, reader.reader, word);
                }
                put!(page, "</td><td>{}</td></tr>", hello.hello.clock.name());
            }
            None => put!(page, "<td>never</td><td>–</td><td>–</td></tr>"),
        }
    }
    if snapshot.controllers.is_empty() {
        put!(page, "<tr><td colspan=\"7\" class=\"empty\">No controller is configured.</td></tr>");
    }
    put!(page, "</tbody></table></div></section>");
}

fn severity(cause: Cause) -> &'static str {
    match cause {
        Cause::Ok => "good",
        Cause::CatchingUp | Cause::ClockUnsynced => "warn",
        Cause::NeverSeen => "calm",
        Cause::StoreRewound | Cause::Gone | Cause::Silent | Cause::Stuck | Cause::ReaderDown => "bad",
    }
}

fn taps(page: &mut Html, snapshot: &Snapshot) {
    let zones = zones(&snapshot.sites, &snapshot.controllers);
    put!(
        page,
        "<section id=\"taps\" data-live class=\"card\"><div class=\"scroll\"><table><caption>Latest taps</caption><thead><tr><th scope=\"col\">Time at the door</th><th scope=\"col\">Who</th><th scope=\"col\">Where</th><th scope=\"col\">Stage</th><th scope=\"col\">Delivery</th><th scope=\"col\"><span class=\"hidden\">Details</span></th></tr></thead><tbody>"
    );
    for row in &snapshot.taps {
        let Some(tap) = &row.tap else { continue };
        let zone = zones.get(&row.controller).map_or("UTC", String::as_str);
        put!(page, "<tr><td>");
        let at = tap.occurred.map_or(tap.recorded_wall, |occurred| occurred.at);
        time(page, at, zone, snapshot.now, Precision::Seconds);
        put!(page, "</td><td>{}</td>", who(tap));
        put!(
            page,
            "<td>{} <span class=\"sub\">{} <span title=\"{}\">{}</span></span></td>",
            row.controller,
            tap.reader,
            tap.direction.name(),
            arrow(tap)
        );
        stages(page, explain::stage(tap));
        put!(page, "<td>");
        for delivery in &tap.deliveries {
            let (class, words) = in_words(delivery);
            put!(page, "<span class=\"pill {}\">{}</span> ", class, words);
        }
        put!(
            page,
            "</td><td><a href=\"/events/{}\" aria-label=\"Details of record {} of {}\">Details</a></td></tr>",
            row.event_id,
            row.seq,
            row.controller
        );
    }
    if snapshot.taps.is_empty() {
        put!(
            page,
            "<tr><td colspan=\"6\" class=\"empty\">No tap has come in yet. Hold a badge to a reader.</td></tr>"
        );
    }
    put!(page, "</tbody></table></div></section>");
}

/// The line of stages: recorded → stored → sent → answered.
fn stages(page: &mut Html, stage: Stage) {
    let reached = match stage {
        Stage::Stored => 2,
        Stage::Sent => 3,
        Stage::Answered => 4,
    };
    let names = ["recorded", "stored", "sent", "answered"];
    let now = names[reached - 1];
    put!(page, "<td><span class=\"stages\" role=\"img\" aria-label=\"Step {} of 4: {}\">", reached, now);
    for (i, name) in names.iter().enumerate() {
        let class = if i < reached { "done" } else { "" };
        put!(page, "<i class=\"{}\" title=\"{}\"></i>", class, name);
    }
    put!(page, "</span><span class=\"stage\">{}</span></td>", now);
}

fn in_words(delivery: &DeliveryRow) -> (&'static str, String) {
    let tries = match delivery.attempts {
        0 | 1 => String::new(),
        n => format!(", {n} attempts"),
    };
    match delivery.state {
        DeliveryState::Delivered if delivery.is_early => {
            ("good", format!("delivered before other doors had said all{tries}"))
        }
        DeliveryState::Delivered => ("good", format!("delivered{tries}")),
        DeliveryState::Dead => ("bad", format!("dead{tries}")),
        DeliveryState::Discarded => ("calm", "discarded".into()),
        DeliveryState::Unknown if delivery.held_for == Some(HeldFor::Person) => {
            ("bad", format!("processed or not? A person must say{tries}"))
        }
        DeliveryState::Unknown => ("warn", format!("unknown{tries}")),
        DeliveryState::InFlight => ("calm", format!("in flight{tries}")),
        DeliveryState::Pending => ("calm", format!("pending{tries}")),
        DeliveryState::Parked => match delivery.held_for {
            Some(HeldFor::TimeUnresolved) => ("warn", "set aside: time not known".into()),
            Some(HeldFor::Time | HeldFor::Binding | HeldFor::Person | HeldFor::Completeness) | None => {
                ("calm", "behind another".into())
            }
        },
        DeliveryState::Held => match delivery.held_for {
            Some(HeldFor::Binding) => ("warn", "held: badge not known".into()),
            Some(HeldFor::Completeness) => ("calm", "held: waits for other doors".into()),
            Some(HeldFor::Time | HeldFor::TimeUnresolved | HeldFor::Person) | None => {
                ("warn", "held: time not known".into())
            }
        },
    }
}

fn who(tap: &TapRow) -> String {
    match tap.deliveries.iter().find_map(|delivery| delivery.person.as_ref()) {
        Some(person) => person.0.clone(),
        None => format!("badge {}…", &tap.badge.token.to_string()[..8]),
    }
}

fn arrow(tap: &TapRow) -> &'static str {
    match tap.direction {
        tap_protocol::tap::Direction::In => "→",
        tap_protocol::tap::Direction::Out => "←",
        tap_protocol::tap::Direction::Unspecified => "",
    }
}

fn title(row: &EventRow) -> String {
    match &row.tap {
        Some(tap) => format!("Tap by {} at {} {}", who(tap), row.controller, arrow(tap)),
        None => format!("{} record of {}", row.kind, row.controller),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Precision {
    Seconds,
    Milliseconds,
}

/// The site's own time; the date only if it is another day than today.
fn time(page: &mut Html, at: UtcMs, zone: &str, now: UtcMs, precision: Precision) {
    let full = local_time(at, zone);
    let today = local_time(now, zone);
    let (date, clock) = full.split_once('T').unwrap_or(("", &full));
    let shown = match precision {
        Precision::Seconds => clock.get(..8),
        Precision::Milliseconds => clock.get(..12),
    };
    put!(page, "<time datetime=\"{}\" title=\"{}\">", full, full);
    if !today.starts_with(date) {
        put!(page, "<span class=\"sub\">{}</span> ", date);
    }
    put!(page, "{}</time>", shown.unwrap_or(clock));
}

/// `1 234 567`, with spaces that do not break.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// The two largest units: `3 min 20 s`.
fn duration(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::Controller;
    use crate::event_store::replays::Example;

    #[test]
    fn numbers_and_durations_read_well() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(duration(-5), "0 s");
        assert_eq!(duration(200_999), "3 min 20 s");
        assert_eq!(duration(3_600_000), "1 h 0 min");
        assert_eq!(duration(90_000_000), "1 d 1 h");
    }

    #[test]
    fn what_controllers_and_destinations_say_cannot_break_out() {
        let evil = "<script>\"&'";
        let snapshot = Snapshot {
            now: UtcMs(10_000),
            complaints: vec![evil.into()],
            ledger: crate::read_model::ledger::ledger(
                Totals { disputed: 3, unresolved: 2, ..Totals::default() },
                vec![],
            ),
            destinations: vec![DestinationState {
                held_until: Some(UtcMs(20_000)),
                held_why: Some(evil.into()),
                ..crate::fixture::destination_state("legacy")
            }],
            watermarks: vec![WatermarkRow {
                held_back_by: Some("door-1".parse().unwrap()),
                held_back_why: Some("holds it".into()),
                trouble: Some(evil.into()),
                ..WatermarkRow::new("frappe", evil)
            }],
            sites: vec![],
            controllers: vec![ControllerState {
                controller: Controller {
                    id: "door-1".parse().unwrap(),
                    label: evil.into(),
                    site: evil.into(),
                    record_keys: vec![],
                },
                hello: None,
                gone: None,
                store_epoch: tap_protocol::ids::StoreEpoch(1),
                outboxes: vec![],
            }],
            taps: vec![],
            letters: vec![Letters {
                destination: evil.into(),
                reason: "refused".into(),
                count: 1_234,
                newest: Some(Example {
                    event_id: "058b8351-c0a3-8a64-a2a3-000000000102".parse().unwrap(),
                    status: Some(422),
                    answer: Some(evil.into()),
                }),
            }],
            replays: vec![],
        };
        let page = overview(&snapshot).into_string();
        assert_eq!(page.matches("<script").count(), 1, "only the page's own");
        assert!(page.contains("&lt;script&gt;&quot;&amp;&#39;"));
        assert!(page.contains("held for 10 s") && page.contains("legacy is held"));
        assert!(page.contains("frappe is behind") && page.contains("door-1 holds it"));
        assert!(page.contains("Waiting for a person") && page.contains("1\u{202f}234"), "{page}");
        assert!(page.contains("never seen"));
        assert!(page.contains("Time in dispute: 3") && page.contains("Set aside without time: 2"));
    }
}
