//! Settings as people write them: what is filled in, what is refused, and that nothing changes on the way to the store
//! and back.

use super::*;
use crate::destination::fields::tests::tap;
use serde_json::{Value, json};

/// The settings with these members beside the two that are needed.
fn read(kind: &str, more: Value) -> Result<DestinationSettings, String> {
    let mut written = json!({ "kind": kind, "url": "https://hr.example.com" });
    let more = more.as_object().expect("an object").clone();
    written.as_object_mut().expect("an object").extend(more);
    serde_json::from_value(written).map_err(|error| error.to_string())
}

#[track_caller]
fn wrong(kind: &str, more: Value, says: &str) {
    let why = read(kind, more.clone()).expect_err("it is wrong");
    assert!(why.contains(says), "{more}: {why}");
}

#[test]
fn an_address_and_a_kind_are_enough() {
    let settings = read("http_json", json!({})).unwrap();
    assert_eq!(settings, DestinationSettings::http_json("https://hr.example.com").unwrap());
    assert_eq!((settings.timeout_ms, settings.limits.concurrency), (5_000, 8));
    assert_eq!(settings.after_unknown, AfterUnknown::Repeat);
    assert_eq!(
        (settings.mode, settings.deliver_from, settings.on_dead),
        (Mode::Live, DeliverFrom::Now, OnDead::Skip)
    );

    let settings = read("frappe_hr", json!({})).unwrap();
    assert_eq!(settings, DestinationSettings::frappe_hr("https://hr.example.com").unwrap());
    assert_eq!(settings.after_unknown, AfterUnknown::LookUp);
    let Kind::FrappeHr(frappe) = settings.kind else { panic!("another kind") };
    assert_eq!((frappe.employee_field.as_str(), frappe.settle_s), ("attendance_device_id", 120));
}

#[test]
fn what_is_kept_is_read_back_as_it_was() {
    let everything = json!({
        "http_json": {
            "template": { "path": "/{person}", "body": { "z": "{occurred_utc}", "a": [1, null] } },
            "answers": [{ "status": [201], "any_body": true, "means": "delivered" }]
        },
        "timeout_ms": 9_000,
        "limits": { "per_second": 0.5, "burst": 3, "per_day": 10_000, "concurrency": 2 },
        "breaker": { "trip_after": 3, "open_s": 5, "max_open_s": 60, "ramp_s": 0 },
        "on_dead": { "hold_hours": 12 },
        "order_across_controllers": { "max_wait_s": 60 },
        "routing": { "directions": ["in", "out"], "sites": ["hq"], "readers": ["hq-door-12/*"],
                     "record_types": ["tap"] },
        "mode": "shadow",
        "deliver_from": "2026-11-01T00:00:00Z",
        "after_unknown": "ask_person",
        "allow_networks": ["10.0.0.0/8"]
    });
    let settings = read("http_json", everything).unwrap();
    let kept = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<DestinationSettings>(&kept).unwrap(), settings);
    assert_eq!(settings.clone().checked().unwrap(), settings);

    let frappe = json!({ "frappe_hr": {
        "app": "erpnext", "employee_field": "name", "device_id": "{controller}/{reader}", "log_type": false,
        "zone": "Asia/Kolkata", "settle_s": 0,
        "watermarks": [{ "shift_type": "Day", "sites": ["hq"], "zone": "Asia/Kolkata" }]
    } });
    let settings = read("frappe_hr", frappe).unwrap();
    let kept = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<DestinationSettings>(&kept).unwrap(), settings);
}

#[test]
fn members_of_a_body_keep_their_order_in_the_store() {
    let written = r#"{"kind":"http_json","url":"https://hr.example.com",
                      "http_json":{"template":{"body":{"z":"{person}","a":1}}}}"#;
    let settings: DestinationSettings = serde_json::from_str(written).unwrap();
    let kept = serde_json::to_string(&settings).unwrap();
    assert!(kept.contains(r#""body":{"z":"{person}","a":1}"#), "{kept}");
    assert_eq!(serde_json::from_str::<DestinationSettings>(&kept).unwrap(), settings);
}

#[test]
fn a_key_that_nobody_knows_is_an_error_at_every_depth() {
    wrong("http_json", json!({ "ratelimit": 1 }), "unknown field `ratelimit`");
    wrong("http_json", json!({ "limits": { "per_minute": 1 } }), "unknown field `per_minute`");
    wrong("http_json", json!({ "http_json": { "templat": {} } }), "unknown field `templat`");
    wrong("http_json", json!({ "routing": { "doors": [] } }), "unknown field `doors`");
    wrong("frappe_hr", json!({ "frappe_hr": { "aplication": 1 } }), "unknown field `aplication`");
    wrong("odoo", json!({}), "unknown variant `odoo`");
    wrong("http_json", json!({ "frappe_hr": {} }), "the kind is http_json");
    wrong("frappe_hr", json!({ "http_json": {} }), "the kind is frappe_hr");
}

#[test]
fn an_address_is_a_web_service_and_has_no_secret_in_it() {
    for url in ["", "hr.example.com", "ftp://hr.example.com", "file:///etc/passwd", "http://", "mailto:a@b"] {
        wrong("http_json", json!({ "url": url }), "address");
    }
    let why = read("http_json", json!({ "url": "https://tap:hunter2@hr.example.com" })).unwrap_err();
    assert!(why.contains("leave the user and the password out") && !why.contains("hunter2"), "{why}");
    wrong("http_json", json!({ "url": "https://hr.example.com/#x" }), "never sent");
    wrong("frappe_hr", json!({ "url": "https://hr.example.com/api/method" }), "this is the site alone");
}

#[test]
fn everything_has_bounds_that_say_what_to_write() {
    for (more, says) in [
        (json!({ "timeout_ms": 99 }), "timeout_ms: use 100 to 20000"),
        (json!({ "timeout_ms": 20_001 }), "timeout_ms: use 100 to 20000"),
        (json!({ "limits": { "per_second": 0 } }), "limits.per_second: use 0.001"),
        (json!({ "limits": { "per_second": 100_001 } }), "limits.per_second: use 0.001"),
        (json!({ "limits": { "burst": 0 } }), "limits.burst: use 1 to"),
        (json!({ "limits": { "per_day": 0 } }), "limits.per_day: use 1 or more"),
        (json!({ "limits": { "concurrency": 0 } }), "limits.concurrency: use 1 to 256"),
        (json!({ "limits": { "concurrency": 257 } }), "limits.concurrency: use 1 to 256"),
        (json!({ "breaker": { "trip_after": 0 } }), "breaker.trip_after"),
        (json!({ "breaker": { "open_s": 0 } }), "breaker.open_s"),
        (json!({ "breaker": { "open_s": 60, "max_open_s": 59 } }), "breaker.max_open_s: use 60"),
        (json!({ "breaker": { "ramp_s": 3_601 } }), "breaker.ramp_s"),
        (json!({ "on_dead": { "hold_hours": 0 } }), "on_dead: use 1 to 744 hours"),
        (json!({ "order_across_controllers": { "max_wait_s": 0 } }), "order_across_controllers.max_wait_s"),
        (json!({ "routing": { "readers": ["in"] } }), "write controller/reader"),
        (json!({ "deliver_from": "yesterday" }), "write now, beginning, or a time"),
        (json!({ "allow_networks": ["10.0.0.1/8"] }), "write 10.0.0.0/8"),
    ] {
        wrong("http_json", more, says);
    }
    for (frappe, says) in [
        (json!({ "employee_field": "a b" }), "frappe_hr.employee_field"),
        (json!({ "employee_field": "" }), "frappe_hr.employee_field"),
        (json!({ "device_id": "{door}" }), "there is no field {door}"),
        (json!({ "zone": "Berlin" }), "frappe_hr.zone: \"Berlin\" is no time zone"),
        (json!({ "settle_s": 3_601 }), "frappe_hr.settle_s"),
        (json!({ "watermarks": [{ "shift_type": "", "zone": "UTC" }] }), "watermarks[0].shift_type"),
        (json!({ "watermarks": [{ "shift_type": "a/b", "zone": "UTC" }] }), "no name of a Shift Type"),
        (json!({ "watermarks": [{ "shift_type": "Day", "zone": "?" }] }), "watermarks[0].zone"),
        (
            json!({ "watermarks": [{ "shift_type": "D", "zone": "UTC" }, { "shift_type": "D", "zone": "UTC" }] }),
            "watermarks[1].shift_type: \"D\" is there twice",
        ),
    ] {
        wrong("frappe_hr", json!({ "frappe_hr": frappe }), says);
    }
}

#[test]
fn a_bad_template_is_refused_with_its_place() {
    wrong(
        "http_json",
        json!({ "http_json": { "template": { "body": [] } } }),
        "http_json.template.body: use a JSON",
    );
    wrong(
        "http_json",
        json!({ "http_json": { "template": { "body": { "a": "{x}" } } } }),
        "there is no field {x}",
    );
    let rules = json!([{ "status": [200], "means": "delivered" }]);
    wrong("http_json", json!({ "http_json": { "answers": rules } }), "http_json.answers: rule 1: ");
}

#[test]
fn what_cannot_be_repeated_safely_is_asked_of_a_person() {
    let keyless = json!({ "template": { "idempotency_header": null, "body": { "who": "{person}" } } });
    let settings = read("http_json", json!({ "http_json": keyless })).unwrap();
    assert_eq!(settings.after_unknown, AfterUnknown::AskPerson);
    wrong("http_json", json!({ "http_json": keyless, "after_unknown": "repeat" }), "must carry its key");
    wrong("http_json", json!({ "after_unknown": "look_up" }), "no way to ask");
    assert_eq!(
        read("frappe_hr", json!({ "after_unknown": "repeat" })).unwrap().after_unknown,
        AfterUnknown::Repeat
    );
}

#[test]
fn routing_takes_what_fits_every_list() {
    let takes = |routing: Value| {
        let (_, tap) = tap();
        read("http_json", json!({ "routing": routing })).unwrap().takes(&tap)
    };
    assert!(takes(json!({})));
    assert!(takes(json!({ "directions": ["in"], "sites": ["hq"], "record_types": ["tap"] })));
    assert!(takes(json!({ "directions": ["out", "in"] })) && !takes(json!({ "directions": ["out"] })));
    assert!(!takes(json!({ "directions": ["unspecified"] })));
    assert!(takes(json!({ "sites": ["lab", "hq"] })) && !takes(json!({ "sites": ["lab"] })));
    assert!(takes(json!({ "readers": ["hq-door-12/in"] })) && takes(json!({ "readers": ["hq-door-12/*"] })));
    assert!(
        !takes(json!({ "readers": ["hq-door-12/out"] })) && !takes(json!({ "readers": ["hq-door-1/in"] }))
    );
    assert!(
        !takes(json!({ "directions": ["in"], "sites": ["lab"] })),
        "one list that does not fit is enough"
    );
}

#[test]
fn a_time_to_deliver_from_is_a_moment() {
    let from = |text: &str| read("http_json", json!({ "deliver_from": text })).unwrap().deliver_from;
    assert_eq!(from("beginning"), DeliverFrom::Beginning);
    assert_eq!(from("2026-03-02T08:00:00.250+01:00"), DeliverFrom::Time(UtcMs(1_772_434_800_250)));
    assert_eq!(from("2026-03-02T08:00:00.250+01:00").to_string(), "2026-03-02T07:00:00.250+00:00");
}
