//! pcscd and ports that go, hang and come back, and what that costs meanwhile.

use std::time::Duration;

use tap_protocol::hello::ReaderState;

use crate::doorway::{Doorway, rdm6300};
#[tokio::test(flavor = "multi_thread")]
async fn pcscd_killed_hanging_and_absent_is_survived() {
    let mut doorway = Doorway::build().await;
    doorway.show(1).await;

    doorway.pcscd.kill9().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let problems = doorway.status().await.problems.join("\n");
    assert!(problems.contains("pcscd"), "{problems}");
    doorway.site.tap(5).await.expect("a dead reader keeps nobody else from tapping");
    doorway.pcscd.restart().await.unwrap();
    doorway.is_up("in").await;
    doorway.show(2).await;

    doorway.pcscd.pause().unwrap();
    doorway.is("in", ReaderState::Down).await;
    doorway.pcscd.resume().unwrap();
    doorway.is_up("in").await;
    doorway.show(3).await;
}

/// Long enough for the waits between tries to reach their longest, 5 s, and to be seen several times.
const CPU_WINDOW: Duration = Duration::from_secs(20);

/// User and system time of edge-agent in a window of [`CPU_WINDOW`], in per cent.
async fn cpu_per_cent(doorway: &Doorway) -> f64 {
    let ticks = || {
        let pid = doorway.site.edge.as_ref().unwrap().pid().as_raw_nonzero();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    // Not to wait for something, but because this window is what is measured.
    tokio::time::sleep(CPU_WINDOW).await;
    // A tick is 10 ms.
    (ticks() - before) as f64 * 10.0 / CPU_WINDOW.as_millis() as f64 * 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_and_an_absent_pcscd_cost_no_cpu_and_the_command_to_type_is_told() {
    tokio::join!(a_stopped_pcscd_costs_no_cpu(), an_absent_pcscd_costs_no_cpu());
}

async fn a_stopped_pcscd_costs_no_cpu() {
    let mut doorway = Doorway::build().await;
    doorway.pcscd.pause().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let listed = async || doorway.cli(&["readers", "list"]).output().await.unwrap();
    let (per_cent, listed) = tokio::join!(cpu_per_cent(&doorway), listed());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("pcscd has not answered for 5 s"), "{listed}");
    assert!(per_cent < 2.0, "{per_cent} % of a core");
    doorway.has_problem("systemctl restart pcscd.service").await;
    doorway.pcscd.resume().unwrap();
    doorway.is_up("in").await;
    doorway.show(1).await;
}

async fn an_absent_pcscd_costs_no_cpu() {
    let mut doorway = Doorway::build().await;
    doorway.pcscd.kill9().unwrap();
    doorway.is("in", ReaderState::Down).await;
    let per_cent = cpu_per_cent(&doorway).await;
    assert!(per_cent < 2.0, "{per_cent} % of a core");
    doorway.has_problem("systemctl start pcscd.socket").await;
    doorway.pcscd.restart().await.unwrap();
    doorway.is_up("in").await;
    doorway.show(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_port_that_went_away_is_opened_again() {
    let mut doorway = Doorway::build().await;
    doorway.write_and_expect_tap(&rdm6300([1, 1, 1, 1, 1])).await;
    doorway.serial.unplug().unwrap();
    doorway.is("out", ReaderState::Down).await;
    let problems = doorway.status().await.problems.join("\n");
    assert!(problems.contains("serial port"), "{problems}");
    doorway.serial.plug_in_again().unwrap();
    doorway.is_up("out").await;
    doorway.write_and_expect_tap(&rdm6300([1, 1, 1, 1, 2])).await;
}
