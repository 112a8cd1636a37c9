//! What the cloud orders a controller to do, on real processes: carried out once, refused where it is forged, foreign or old,
//! and told back.

use std::path::{Path, PathBuf};
use std::process::Command as Tool;

use cloud_ingest::event_store::{Commands, UtcMs, sqlite::SqliteStore};
use data_encoding::HEXLOWER_PERMISSIVE;
use edge_agent::control::{Request, Response, question};
use serde_json::Value;
use tap_protocol::command::{Command, Order};
use tap_protocol::keys::SigningKey;
use testbench::{
    rig::wait_until,
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions},
};

async fn site() -> Site {
    Site::start(SiteOptions::default()).await.unwrap()
}

async fn taps(site: &Site, count: usize) {
    for n in 0..count {
        site.tap(n).await.unwrap();
    }
}

/// A hello, so that nobody waits a minute for it.
async fn says_hello(site: &Site) {
    let logs = site.logs();
    let logs: Vec<&Path> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("the cloud to answer a hello", HEALS_WITHIN, &logs, async || {
        let answer = question(&site.control_socket(), &Request::RoundTrip).await;
        matches!(answer, Ok(Response::RoundTrip(_)))
    })
    .await;
}

async fn newest_command_ends(site: &Site) -> Value {
    says_hello(site).await;
    let logs = site.logs();
    let logs: Vec<&Path> = logs.iter().map(|log| log.as_path()).collect();
    let newest = || -> Value {
        let told = site.cloud_cli(&["controllers", "commands", "hq-door-1", "--output", "json"]).unwrap();
        serde_json::from_str::<Value>(&told).unwrap()[0].clone()
    };
    wait_until("the command to end", HEALS_WITHIN, &logs, async || newest()["outcome"].is_string()).await;
    newest()
}

fn queue(site: &Site, order: &Order) {
    // Long enough ago for the service to have seen what it is about.
    let now = UtcMs(testbench::rig::true_utc_ms() - 10_000);
    let mut store = SqliteStore::open(&site.store_path(), now).unwrap();
    store.queue_command(&site.controller(), order, "a test wants it", now).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_carried_out_once_and_a_revoked_controller_records_nothing_more() {
    let mut site = site().await;
    taps(&site, 3).await;
    site.cloud_cli(&["controllers", "check", "hq-door-1"]).unwrap();
    let checked = newest_command_ends(&site).await;
    assert_eq!(checked["outcome"], "done");
    assert!(checked["detail"].as_str().unwrap().contains("ok configuration"), "{checked}");

    queue(&site, &Order::FetchKeys);
    let fetched = newest_command_ends(&site).await;
    assert_eq!(fetched["outcome"], "refused");
    let outbox = site.edge_status().await.unwrap().outboxes[0].outbox;
    queue(&site, &Order::StartNewOutbox { outbox });
    let left = newest_command_ends(&site).await;
    assert_eq!(left["outcome"], "refused", "nothing contradicts it: {left}");
    assert_eq!(site.edge_status().await.unwrap().outboxes.len(), 1);

    site.uplink.cut().await.unwrap();
    taps(&site, 5).await;
    site.revoke().await.unwrap();
    site.uplink.restore().await.unwrap();
    let logs = site.logs();
    let logs: Vec<&Path> = logs.iter().map(|log| log.as_path()).collect();
    let is_revoked = async || {
        site.edge_status().await.is_ok_and(|status| status.problems.iter().any(|why| why.contains("revoked")))
    };
    wait_until("the controller to hear that it is revoked", HEALS_WITHIN, &logs, is_revoked).await;
    let refused = site.tap(9).await.unwrap_err().to_string();
    assert!(refused.contains("revoked this controller"), "{refused}");
    assert_eq!(site.cloud_ledger().await.unwrap().taps, 3, "nobody had heard of the others");
    assert_eq!(site.edge_status().await.unwrap().pending, 5);

    site.kill_edge().unwrap();
    site.start_edge().await.unwrap();
    let refused = site.tap(9).await.unwrap_err().to_string();
    assert!(refused.contains("revoked this controller"), "after a restart too: {refused}");
    let told = site.cloud_cli(&["controllers", "commands", "hq-door-1", "--output", "json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told.as_array().unwrap().iter().filter(|one| one["outcome"] == "done").count(), 1, "{told}");
}

/// Gives the broker a command as if the cloud had.
fn publish(site: &Site, message: &[u8]) {
    let file = site.dir().join("payload");
    std::fs::write(&file, message).unwrap();
    let (port, topic) = (site.broker.addr().port().to_string(), format!("tap/v1/{CONTROLLER}/command"));
    let args = ["-p", &port, "-q", "1", "-t", &topic, "-f"];
    let tool =
        Tool::new("mosquitto_pub").args(args).arg(&file).status().expect("mosquitto-clients is installed");
    assert!(tool.success());
}

async fn refused(site: &Site, count: u64) {
    wait_until("it to be refused", HEALS_WITHIN, &[], async || {
        site.edge_status().await.is_ok_and(|status| status.counters.messages_refused == count)
    })
    .await;
}

/// How often the agent carried a command out.
fn carried_out(site: &Site) -> usize {
    let log: PathBuf = site.dir().join("edge-agent.log");
    std::fs::read_to_string(log).unwrap().matches("a command came to its end").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_foreign_and_old_commands_are_refused_also_after_a_restart() {
    let mut site = site().await;
    says_hello(&site).await;
    let seed = std::fs::read_to_string(site.dir().join("keys/control-1.key")).unwrap();
    let seed = HEXLOWER_PERMISSIVE.decode(seed.trim().as_bytes()).unwrap();
    let ours = SigningKey::from_seed(&seed.try_into().unwrap());
    let command = |controller: &str, number, order| Command {
        controller: controller.parse().unwrap(),
        number,
        issued_utc_ms: 0,
        order,
    };
    publish(&site, &command(CONTROLLER, 100, Order::Revoke).sign(&SigningKey::from_seed(&[9; 32])));
    refused(&site, 1).await;
    publish(&site, &command("hq-door-2", 100, Order::Revoke).sign(&ours));
    refused(&site, 2).await;
    let good = command(CONTROLLER, 100, Order::FetchKeys).sign(&ours);
    publish(&site, &good);
    wait_until("it to be carried out", HEALS_WITHIN, &[], async || carried_out(&site) == 1).await;
    publish(&site, &good);
    publish(&site, &command(CONTROLLER, 99, Order::Revoke).sign(&ours));
    refused(&site, 3).await;
    assert_eq!(carried_out(&site), 1, "the same number is answered and not carried out again");
    site.kill_edge().unwrap();
    site.start_edge().await.unwrap();
    says_hello(&site).await;
    publish(&site, &good);
    publish(&site, &command(CONTROLLER, 99, Order::Revoke).sign(&ours));
    refused(&site, 1).await;
    assert_eq!(carried_out(&site), 1);
    site.tap(1).await.unwrap();
}
