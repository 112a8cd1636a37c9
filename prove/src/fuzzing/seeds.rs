//! Where a fuzzer begins: real messages, the published examples, and one of everything else.

use data_encoding::HEXLOWER;
use power_loss_vfs::Dice;
use tap_protocol::enrolment::EnrollToken;
use tap_protocol::ids::ControllerId;

use super::on_the_disk;
use crate::attacks::cast::{self, History, Kind};
use crate::forging::unsigned;

macro_rules! golden {
    ($name:literal) => {
        HEXLOWER
            .decode(
                include_str!(concat!("../../../tap-protocol/tests/golden/v1/", $name, ".hex"))
                    .trim()
                    .as_bytes(),
            )
            .expect("hexadecimal")
    };
}

/// The first inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    match target {
        "batch" => [signed_and_bare(golden!("batch")), bodies(Kind::Batch)].concat(),
        "hello" => [signed_and_bare(golden!("hello")), bodies(Kind::Hello)].concat(),
        "receipt" => [signed_and_bare(golden!("receipt")), bodies(Kind::Receipt)].concat(),
        "report" => bodies(Kind::Report),
        "roster" => [bodies(Kind::RosterHead), bodies(Kind::RosterChunk)].concat(),
        "command" => bodies(Kind::Command),
        "record" => vec![
            golden!("record-agent-started"),
            golden!("record-buffer-high"),
            golden!("record-clock-anchor-kernel"),
            golden!("record-clock-anchor-receipt"),
            golden!("record-clock-anchor-step"),
            golden!("record-config-changed"),
            golden!("record-same-as"),
            golden!("record-lost"),
            golden!("record-reader-down"),
            golden!("record-reader-up"),
            golden!("record-repeats"),
            golden!("record-tap"),
        ],
        "topic" => {
            texts(&["tap/v1/hq-door-12/records", "tap/v1/a/gone", "tap/v2/a/hello", "tap/v1/+/report"])
        }
        "intake" => vec![
            [b"tap/v1/hq-door-12/records\n".to_vec(), golden!("batch")].concat(),
            [b"tap/v1/hq-door-12/hello\n".to_vec(), golden!("hello")].concat(),
            b"tap/v1/hq-door-12/gone\n".to_vec(),
        ],
        "card_answer" => hex(&["04A224B1C2D3809000", "61A7CA6C9000", "6300", "9000", "088A1B2C9000"]),
        "atr" => hex(&[
            "3B8F8001804F0CA000000306030001000000006A",
            "3B8F8001804F0CA0000003060300030000000068",
            "3B8180018080",
            "3B6800000073C84013009000",
        ]),
        "serial" => {
            let stream = |which: u8, text: &[u8]| [&[which, 4], text].concat();
            vec![
                stream(0, b"\x0262E3086CED08\x03\x0201000734E0D2\x03"),
                stream(0, b"\x0262E3086CEE08\x03"),
                stream(1, b"04A224B1\r\n61A7CA6C\n"),
                stream(2, b"UID:01000734E0\r"),
                stream(3, b"26:22A7C24\r\n34:1\r\n"),
                stream(4, b"26:8A9F0900\n"),
                stream(5, b"26:10001010100111110000100100\n"),
            ]
        }
        "badge" => texts(&[
            "04A224B1C2D380",
            "01 00 07 34 E0",
            "hf:61:a7:ca:6c",
            "wiegand:26:8A9F0900",
            "em4100:026F6C3A",
        ]),
        "control" => texts(&[
            "\"status\"",
            "\"clock\"",
            r#"{"tap":{"uid":"04A224B1","direction":"in"}}"#,
            "\"round_trip\"",
        ]),
        "edge_config" => texts(&[include_str!("../../../packaging/edge-agent.toml")]),
        "cloud_config" => texts(&[include_str!("../../../packaging/cloud-ingest.toml")]),
        "config_edit" => texts(&[
            "broker.url\n\"mqtt://b\"\n[broker]\nurl = \"mqtt://a\" # ours\n",
            "reader[0].name\n\"in\"\n[[reader]]\nname = \"out\"\npcsc = {}\n",
            "a.b\n[1, 2]\n# a.b = 7\n[c]\n",
        ]),
        "export" | "import" => vec![golden!("export")],
        "roster_book" => {
            bodies(Kind::RosterChunk).into_iter().map(|body| body[6..].to_vec()).chain([vec![]]).collect()
        }
        "certificate" => vec![a_certificate()],
        "bundle" => vec![a_bundle()],
        "log" => vec![a_log()],
        "outbox" => vec![on_the_disk::an_outbox()],
        "legacy_answer" => {
            let answer = |status: u16, text: &str| [&status.to_be_bytes()[..], text.as_bytes()].concat();
            let json = "content-type: application/json\n\n";
            vec![
                answer(200, &format!("{json}{{\"status\":\"ok\"}}")),
                answer(200, &format!("{json}{{\"status\":\"ok\",\"duplicate\":true}}")),
                answer(200, &format!("{json}{{\"error\":\"no such employee\"}}")),
                answer(409, &format!("{json}{{\"duplicate\":true}}")),
                answer(429, "retry-after: 17\n\n"),
                answer(503, "retry-after: Sat, 21 Nov 2026 07:00:00 GMT\n\n<html>"),
            ]
        }
        "frappe_answer" => {
            let answer = |status: u16, text: &str| [&status.to_be_bytes()[..], text.as_bytes()].concat();
            let log =
                |time: &str| format!(r#"{{"message":{{"name":"EMP-CKIN-03-2026-000123","time":"{time}"}}}}"#);
            let thrown = |class: &str, message: &str| {
                let messages = format!(r#"["{{\\\"message\\\":\\\"{message}\\\"}}"]"#);
                let packed = serde_json::to_string(&messages).expect("a text is JSON");
                format!(
                    r#"{{"exc_type":"{class}","exception":"frappe.exceptions.{class}: x","_server_messages":{packed}}}"#
                )
            };
            vec![
                answer(200, &log("2026-03-02 08:00:00")),
                answer(200, &log("2026-03-02 08:00:00.000000")),
                answer(200, &log("2026-03-02 16:30:12.345678")),
                answer(
                    417,
                    &thrown("ValidationError", "This employee already has a log with the same timestamp."),
                ),
                answer(
                    417,
                    &thrown("ValidationError", "No Employee found for the given employee field value."),
                ),
                answer(417, &thrown("InactiveEmployeeStatusError", "…")),
                answer(403, &thrown("PermissionError", "Insufficient Permission")),
                answer(409, &thrown("DuplicateEntryError", "EMP-CKIN-03-2026-000123")),
                answer(429, "Too Many Requests"),
                answer(504, "<html>"),
            ]
        }
        "destination" => texts(&[
            r#"{"kind":"http_json","url":"https://hr.example.com/api/attendance"}"#,
            r#"{"kind":"http_json","url":"https://hr.example.com","http_json":{"template":{"method":"PUT",
"path":"/people/{person}/taps/{event_id}","idempotency_header":null,"headers":[{"name":"X-Source","value":"doors"}],
"directions":{"in":"IN","out":"OUT","unspecified":null},"body":{"at":"{occurred_utc}","{a}":["{{x}}",1,null,true]}},
"answers":[{"status":[200],"when":[{"at":"/a","is":true}],"means":"delivered"},
{"status":[409],"any_body":true,"means":"duplicate"}]}}"#,
            r#"{"kind":"frappe_hr","url":"https://hr.example.com","frappe_hr":{"app":"erpnext","zone":"Asia/Kolkata",
"device_id":"{controller}/{reader}","watermarks":[{"shift_type":"Day","sites":["hq"],"zone":"Europe/Berlin"}]}}"#,
            r#"{"kind":"http_json","url":"http://10.1.2.3:8080","timeout_ms":9000,"limits":{"per_second":0.5},
"on_dead":{"hold_hours":12},"order_across_controllers":{"max_wait_s":60},"routing":{"directions":["in"],
"readers":["hq-door-12/*"]},"mode":"shadow","deliver_from":"2026-11-01T00:00:00Z","allow_networks":[]}"#,
        ]),
        "badge_list" => texts(&[
            "badge,person\n04A224B1C2D380,P-1\nem4100:026F6C3A,P-2\n",
            "\u{feff}person;badge;name\r\nP-1;\"04A224B1\";\"A \"\"B\"\"\"\r\n\r\nP-1;61A7CA6C;x\r\n",
            "badge,person\n4.5E+12,P-1\n,\n",
        ]),
        "enrolment" => enrolment(),
        "enrol_token" => {
            let token = EnrollToken { id: [1; 5], secret: [2; 16], root_pin: [3; 16] };
            texts(&[&token.to_string(), "tle1.a.b.c"])
        }
        other => unreachable!("{other} has no seeds"),
    }
}

fn signed_and_bare(message: Vec<u8>) -> Vec<Vec<u8>> {
    vec![unsigned(&message).to_vec(), message]
}

fn bodies(kind: Kind) -> Vec<Vec<u8>> {
    let controller: ControllerId = "hq-door-12".parse().expect("a slug");
    let bodies = (0..6).map(|seed| {
        let mut dice = Dice::at(seed, kind as u64);
        let history = History::new(3, &mut dice);
        cast::body(kind, &controller, &history, 1, &mut dice)
    });
    bodies.collect()
}

fn hex(digits: &[&str]) -> Vec<Vec<u8>> {
    digits
        .iter()
        .map(|digits| data_encoding::HEXUPPER.decode(digits.as_bytes()).expect("hexadecimal"))
        .collect()
}

/// A header of SQLite's log and three frames that sum up.
fn a_log() -> Vec<u8> {
    let outbox = on_the_disk::an_outbox();
    let log = &outbox[1 + usize::from(outbox[0]) * 1024..];
    log[..log.len().min(4 * 1024)].to_vec()
}

/// The shape of a certificate, with as little in it as can be.
fn a_certificate() -> Vec<u8> {
    let field = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let name = |text: &str| {
        let pair = [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &field(0x0c, text.as_bytes())].concat();
        field(0x30, &field(0x31, &field(0x30, &pair)))
    };
    let dates = [field(0x17, b"261121000000Z"), field(0x17, b"261221000000Z")].concat();
    let parts = [
        field(0xa0, &field(0x02, &[2])),
        field(0x02, &[0, 0x9a]),
        field(0x30, &[]),
        name("root"),
        field(0x30, &dates),
        name("hq-door-12"),
    ];
    field(0x30, &field(0x30, &parts.concat()))
}

fn a_bundle() -> Vec<u8> {
    let pem = |der: &[u8]| {
        let base64 = data_encoding::BASE64.encode(der);
        format!("-----BEGIN CERTIFICATE-----\\n{base64}\\n-----END CERTIFICATE-----\\n")
    };
    let (certificate, key) = (pem(&a_certificate()), "33".repeat(32));
    let text = format!(
        r#"{{"controller":"hq-door-12","label":"Door","site":"hq","certificate":"{certificate}","not_after_utc_ms":1797811200000,
        "roots":"{certificate}","broker_url":"mqtts://b:8883","enrolment_url":"https://e:8443","token_keys":[{{"id":1,"key":"{key}"}}],
        "token_key_id":1,"receipt_keys":["{key}"],"control_keys":["{key}"],"cloud_utc_ms":2}}"#
    );
    text.into_bytes()
}

fn enrolment() -> Vec<Vec<u8>> {
    let keys = r#"{"tls_public_key":"04aa","record_public_key":"bb","tls_proof":"cc","record_proof":"dd"}"#;
    let texts = [
        r#"{"challenge":"00ff"}"#.to_owned(),
        format!(r#"{{"challenge":"00ff","token_id":"a","token_secret":"b","keys":{keys},"agent_version":"0.1.0"}}"#),
        format!(
            r#"{{"challenge":"00ff","controller":"hq-door-12","keys":{keys},"current_proof":"ee","agent_version":"0.1.0"}}"#
        ),
        concat!(
            r#"{"controller":"hq-door-12","label":"Door","site":"hq","certificate":"PEM","not_after_utc_ms":1,"roots":"PEM","#,
            r#""broker_url":"mqtts://b:8883","enrolment_url":"https://e","token_keys":[{"id":1,"key":"33"}],"token_key_id":1,"#,
            r#""receipt_keys":["22"],"control_keys":["44"],"cloud_utc_ms":2}"#
        )
        .to_owned(),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}
