//! Rubbish from the broker, missing parts, and configuration that is wrong: each is named, counted, and in nobody's way.
//! Rubbish from readers is in `readers.rs`, from the legacy API in `end_to_end.rs`.

use std::{path::Path, process::Command, time::Duration};

use data_encoding::HEXLOWER_PERMISSIVE;
use tap_protocol::{
    chain::ChainHash,
    envelope::Batch,
    ids::{ControllerId, OutboxId, Seq, StoreEpoch},
    keys::SigningKey,
    receipt::Receipt,
};
use testbench::{
    oracle::check_promise,
    rig::{program_path, wait_until},
    site::{CONTROLLER, HEALS_WITHIN, Site, SiteOptions},
};

/// Publishes one message with the broker's own tool.
fn publish(site: &Site, topic: &str, payload: &[u8]) {
    let file = site.dir().join("payload");
    std::fs::write(&file, payload).unwrap();
    let port = site.broker.addr().port().to_string();
    let tool = Command::new("mosquitto_pub")
        .args(["-p", &port, "-q", "1", "-t", topic, "-f"])
        .arg(&file)
        .status()
        .expect("mosquitto-clients is installed");
    assert!(tool.success());
}

fn signing_key(path: &Path) -> SigningKey {
    let text = std::fs::read_to_string(path).unwrap();
    let seed = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).unwrap();
    SigningKey::from_seed(&seed.try_into().unwrap())
}

fn flip(message: &[u8], bit: usize) -> Vec<u8> {
    let mut changed = message.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_from_the_broker_moves_no_controller() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let first = site.tap(1).await.unwrap();
    let ours = signing_key(&site.dir().join("keys/receipt-1.key"));
    let receipt = |controller: &str| Receipt {
        controller: controller.parse().unwrap(),
        store_epoch: StoreEpoch(u64::MAX),
        outbox: OutboxId([9; 16]),
        stored_through: Seq(1_000_000),
        hash: ChainHash([0; 32]),
        resend: true,
        echo: None,
        cloud_utc_ms: 0,
    };
    let good = receipt(CONTROLLER).sign(&ours);
    let on = |channel: &str| format!("tap/v1/{CONTROLLER}/{channel}");
    let fixtures: Vec<(String, Vec<u8>)> = vec![
        (on("receipt"), Vec::new()),
        (on("receipt"), b"{\"stored_through\": 7}".to_vec()),
        (on("receipt"), vec![0; 64]),
        (on("receipt"), vec![1; 65]),
        (on("receipt"), vec![0xff; 60_000]),
        (on("receipt"), good[..good.len() - 1].to_vec()),
        (on("receipt"), [good.clone(), vec![0]].concat()),
        (on("receipt"), flip(&good, 0)),
        (on("receipt"), flip(&good, 300)),
        (on("receipt"), flip(&good, good.len() * 8 - 1)),
        (on("receipt"), receipt("hq-door-2").sign(&ours)),
        (on("receipt"), receipt(CONTROLLER).sign(&SigningKey::from_seed(&[5; 32]))),
        (on("receipt"), [vec![2], good[1..].to_vec()].concat()),
        (on("roster"), good.clone()),
        (on("command"), b"start_new_outbox".to_vec()),
        // Authentic, and for an outbox that this controller never had.
        (on("receipt"), good.clone()),
    ];
    for (topic, payload) in &fixtures {
        publish(&site, topic, payload);
    }
    wait_until(
        "every fixture to be refused",
        HEALS_WITHIN,
        &site.logs().iter().map(|l| l.as_path()).collect::<Vec<_>>(),
        async || site.edge_status().await.unwrap().counters.messages_refused >= fixtures.len() as u64,
    )
    .await;
    let second = site.tap(2).await.unwrap();
    delivered(&site, 2).await;
    check_promise(&site, &[first, second]).await.unwrap();
    let log = std::fs::read_to_string(site.dir().join("edge-agent.log")).unwrap();
    assert!(
        log.lines().filter(|line| line.contains("is refused")).count() <= 2,
        "said once a minute:\n{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_from_the_broker_is_quarantined_with_its_reason_and_blocks_nobody() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let first = site.tap(1).await.unwrap();
    delivered(&site, 1).await;
    let controller: ControllerId = CONTROLLER.parse().unwrap();
    let theirs = signing_key(&site.dir().join("keys/record.key"));
    let outbox = OutboxId([9; 16]);
    let batch = |controller: &ControllerId| Batch {
        controller: controller.clone(),
        outbox,
        first_seq: Seq(1),
        hash_before: ChainHash::start(outbox),
        records: vec![b"\x02a record of version 2".to_vec()],
    };
    let good = batch(&controller).sign(&theirs);
    let on = |channel: &str| format!("tap/v1/{CONTROLLER}/{channel}");
    let elsewhere = "tap/v1/hq-door-99/records".to_owned();
    let fixtures: Vec<(String, Vec<u8>)> = vec![
        (on("records"), Vec::new()),
        (on("records"), b"not a batch".to_vec()),
        (on("records"), vec![0; 200]),
        (on("records"), vec![1; 200]),
        (on("records"), vec![0x7f; 70_000]),
        (on("records"), good[..good.len() - 1].to_vec()),
        (on("records"), [good.clone(), vec![0]].concat()),
        (on("records"), flip(&good, 400)),
        (on("records"), batch(&controller).sign(&SigningKey::from_seed(&[6; 32]))),
        (on("records"), batch(&"hq-door-2".parse().unwrap()).sign(&theirs)),
        (on("records"), [vec![9], good[1..].to_vec()].concat()),
        (elsewhere, good.clone()),
        (on("hello"), Vec::new()),
        (on("hello"), good.clone()),
        ("tap/v1/HQ Door/records".into(), good.clone()),
    ];
    let before = quarantined(&site).await;
    for (topic, payload) in &fixtures {
        publish(&site, topic, payload);
    }
    wait_until("every fixture to be quarantined", HEALS_WITHIN, &[], async || {
        quarantined(&site).await >= before + fixtures.len() as u64
    })
    .await;
    let second = site.tap(2).await.unwrap();
    delivered(&site, 2).await;
    check_promise(&site, &[first, second]).await.unwrap();
    let log = std::fs::read_to_string(site.dir().join("cloud-ingest.log")).unwrap();
    assert!(log.lines().count() < 40, "rubbish is logged with a bound:\n{log}");
}

/// Authentic bytes of a version that nobody here can read are stored, counted in the mark, and block no tap.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_is_stored_as_it_is() {
    let site = Site::start(SiteOptions::default()).await.unwrap();
    let theirs = signing_key(&site.dir().join("keys/record.key"));
    let outbox = OutboxId([8; 16]);
    let batch = Batch {
        controller: CONTROLLER.parse().unwrap(),
        outbox,
        first_seq: Seq(1),
        hash_before: ChainHash::start(outbox),
        records: vec![b"\x02a record of version 2".to_vec(), b"\x01\xff\xff".to_vec()],
    };
    let before = site.cloud_ledger().await.unwrap().records;
    publish(&site, &format!("tap/v1/{CONTROLLER}/records"), &batch.sign(&theirs));
    wait_until("both to be stored", HEALS_WITHIN, &[], async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.records >= before + 2)
    })
    .await;
    let (status, events) = site.get_text("/api/v1/events").await.unwrap();
    assert!(status == 200 && events.contains(r#""kind":"opaque""#), "{events}");
}

async fn quarantined(site: &Site) -> u64 {
    #[derive(serde::Deserialize)]
    struct Quarantined {
        quarantined: u64,
    }
    site.get::<Quarantined>("/api/v1/ledger").await.unwrap().quarantined
}

async fn delivered(site: &Site, taps: u64) {
    let logs = site.logs();
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait_until("the good taps to be delivered", HEALS_WITHIN, &logs, async || {
        site.cloud_ledger().await.is_ok_and(|ledger| ledger.in_state("delivered") == taps)
    })
    .await;
}

/// No broker, no pcscd, no serial port: three states that `status` shows, while taps are recorded; and they heal.
#[tokio::test(flavor = "multi_thread")]
async fn missing_parts_are_states_that_heal() {
    let mut site = Site::start(SiteOptions {
        readers: r#"[[reader]]
name = "in"
pcsc = {}

[[reader]]
name = "out"
serial = { port = "/nonexistent/tty" }
"#
        .into(),
        edge_env: vec![("PCSCLITE_CSOCK_NAME".into(), "/nonexistent/pcscd.comm".into())],
        ..SiteOptions::default()
    })
    .await
    .unwrap();
    site.broker.kill9().unwrap();
    wait_until("three problems", HEALS_WITHIN, &[], async || {
        let problems = site.edge_status().await.unwrap().problems;
        ["broker", "reader in", "reader out"].iter().all(|what| problems.iter().any(|p| p.starts_with(what)))
    })
    .await;
    let green = site.tap(1).await.unwrap();
    site.broker.restart().await.unwrap();
    delivered(&site, 1).await;
    check_promise(&site, &[green]).await.unwrap();
    wait_until("the broker's problem to be gone", Duration::from_secs(30), &[], async || {
        !site.edge_status().await.unwrap().problems.iter().any(|problem| problem.starts_with("broker"))
    })
    .await;
}

#[track_caller]
fn config_error(program: &str, verb: &[&str], text: &str, expect: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let output =
        Command::new(program_path(program).unwrap()).args(verb).arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains(&format!("config.toml:{expect}")), "{said}");
}

#[test]
fn a_malformed_configuration_names_line_key_and_the_likely_key_and_has_its_own_exit_code() {
    let edge = |text: &str, expect: &str| config_error("edge-agent", &["run"], text, expect);
    edge("controler = \"a\"\n", "1: unknown key controler: did you mean controller?");
    edge("controller = \"a\"\n[broker]\nurl = 7\n", "3: broker.url");
    edge(
        "controller = \"a\"\n[broker]\nurl = \"mqtt://h\"\nca = \"x\"\n",
        "4: unknown key broker.ca: did you mean ca_file?",
    );
    edge("controller = \n", "1: ");
    let cloud = |text: &str, expect: &str| config_error("cloud-ingest", &["serve"], text, expect);
    cloud("datadir = \"x\"\n", "1: unknown key datadir: did you mean data_dir?");
    cloud("data_dir = \"x\"\n[brokr]\nurl = \"mqtt://h\"\n", "2: unknown key brokr: did you mean broker?");
}
