//! Deliveries to Frappe HR over real HTTP, against a site that has the traps of the real one: each trap is sprung first, so
//! that it is seen to be there, and then passed.

use std::net::SocketAddr;
use std::time::Duration;

use cloud_ingest::clock::Clock;
use cloud_ingest::destination::frappe_hr::watermark::{Progress, Watermark, decide};
use cloud_ingest::destination::frappe_hr::{Advances, Pushed};
use cloud_ingest::destination::guard::Guard;
use cloud_ingest::destination::open::AnyDestination;
use cloud_ingest::destination::settings::{AfterUnknown, DestinationSettings, Kind};
use cloud_ingest::destination::{Answered, Destination, Finding, LookedUp, Outcome, Probe, Sample};
use cloud_ingest::event_store::{DeliverableTap, PersonId, Site as Place, UtcMs};
use jiff::civil::{DateTime, date};
use serde_json::{Value, json};
use tap_protocol::ids::{EventId, OutboxId, Seq};
use tap_protocol::tap::Direction;
use testbench::frappe_sim::{Fault, FrappeSim, RateLimit, Role, ShiftType, Site, Status, Version};
use testbench::rig::wait_until;

/// 2026-03-02 08:00:00.250 in Berlin.
const MORNING: UtcMs = UtcMs(1_772_434_800_250);

/// What clocks in Berlin show while the tests run: taps are old by then.
fn afternoon() -> DateTime {
    date(2026, 3, 2).at(16, 30, 12, 345_678_000)
}

async fn start(site: Site) -> FrappeSim {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let sim = FrappeSim::start(SocketAddr::from(([127, 0, 0, 1], 0)), site).await.unwrap();
    sim.set_now(afternoon());
    sim
}

/// The real client, with these members of `frappe_hr` in its settings.
fn client_as(sim: &FrappeSim, credentials: &str, frappe: &Value) -> AnyDestination {
    let written = json!({
        "kind": "frappe_hr", "url": sim.url(), "timeout_ms": 400, "frappe_hr": frappe
    });
    let settings: DestinationSettings = serde_json::from_str(&written.to_string()).unwrap();
    let clock = Clock::from_fn(|| MORNING);
    let loopback = Guard::allowing(["127.0.0.1".parse().unwrap()]);
    AnyDestination::open(&settings, Some(credentials), &loopback, clock).unwrap()
}

fn client(sim: &FrappeSim) -> AnyDestination {
    client_as(sim, "key:secret", &json!({}))
}

fn event() -> EventId {
    EventId::new(&"hq-door-12".parse().unwrap(), OutboxId([7; 16]), Seq(258))
}

fn tap(person: &str, direction: Direction, occurred: UtcMs) -> DeliverableTap {
    DeliverableTap {
        person: PersonId(person.into()),
        controller: "hq-door-12".parse().unwrap(),
        site: Place { id: "hq".into(), label: "HQ".into(), zone: "Europe/Berlin".into() },
        reader: "in".parse().unwrap(),
        direction,
        occurred,
        uncertainty_ms: 3,
    }
}

/// A tap at the entrance, in the morning.
fn arrival(client: &AnyDestination, person: &str) -> String {
    client.render(event(), &tap(person, Direction::In, MORNING)).unwrap()
}

async fn send(client: &AnyDestination, rendered: &str) -> Answered {
    client.send(event(), rendered.to_owned()).await
}

fn count(sim: &FrappeSim) -> usize {
    sim.site(|site| site.logs.len())
}

#[tokio::test]
async fn a_tap_becomes_one_check_in_in_every_version() {
    for (version, app) in [(Version::V13, "erpnext"), (Version::V14, "hrms"), (Version::V15, "hrms")] {
        let sim = start(Site { version, ..Site::with_employees(2) }).await;
        let client = client_as(&sim, "key:secret", &json!({ "app": app }));
        let rendered = arrival(&client, "1");
        assert_eq!(send(&client, &rendered).await.outcome, Outcome::Delivered, "{version:?}");
        assert_eq!(send(&client, &rendered).await.outcome, Outcome::Duplicate, "{version:?}");
        let log = sim.site(|site| site.logs.clone()).pop().unwrap();
        assert_eq!((count(&sim), log.employee.as_str()), (1, "HR-EMP-00001"));
        assert_eq!(log.time, date(2026, 3, 2).at(8, 0, 0, 0));
        assert_eq!((log.log_type.as_deref(), log.device_id.as_deref()), (Some("IN"), Some("hq-door-12")));
        let leaving = client.render(event(), &tap("1", Direction::Out, UtcMs(MORNING.0 + 60_000))).unwrap();
        assert_eq!(send(&client, &leaving).await.outcome, Outcome::Delivered, "{version:?}");
        assert_eq!(count(&sim), 2);
    }
}

#[tokio::test]
async fn microseconds_would_double_a_tap_where_they_are_compared_and_are_never_sent() {
    let sim = start(Site { version: Version::V14, ..Site::with_employees(1) }).await;
    let client = client(&sim);
    let rendered = arrival(&client, "1");
    let other_fraction = rendered.replace(".000000", ".250000");
    assert_ne!(rendered, other_fraction);
    // The trap: the same second with another fraction is another log for this version.
    let http = testbench::http_client();
    let url = format!("{}/api/method/{}", sim.url(), Version::V14.method());
    for body in [rendered.replace(".000000", ".500000"), other_fraction] {
        let request = http.post(&url).header("authorization", "token key:secret").body(body);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    assert_eq!(count(&sim), 2);
    // Passed: the same tap rendered again has the same second, whatever its milliseconds were.
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::Delivered);
    let again = client.render(event(), &tap("1", Direction::In, UtcMs(MORNING.0 + 700))).unwrap();
    assert_eq!(
        (again.as_str(), send(&client, &again).await.outcome),
        (rendered.as_str(), Outcome::Duplicate)
    );
    assert_eq!(count(&sim), 3);
}

#[tokio::test]
async fn a_user_who_may_not_set_times_is_noticed_with_the_first_tap() {
    let mut site = Site::with_employees(1);
    site.user.role = Role::Employee;
    let sim = start(site).await;
    let client = client(&sim);
    // The trap: whoever sends it by hand gets a 200, and a log at the time of the upload.
    let url = format!("{}/api/method/{}", sim.url(), Version::V15.method());
    let by_hand = testbench::http_client().post(url).header("authorization", "token key:secret");
    assert_eq!(by_hand.body(arrival(&client, "1")).send().await.unwrap().status(), 200);
    let log = sim.site(|site| site.logs.pop()).unwrap();
    assert_eq!(log.time, date(2026, 3, 2).at(16, 30, 12, 0));
    // Passed: it is seen, taken back, and nothing more is sent until a person has looked.
    let answered = send(&client, &arrival(&client, "1")).await;
    let Outcome::Misconfigured(why) = answered.outcome else { panic!("{answered:?}") };
    assert!(why.contains("2026-03-02 16:30:12 instead of 2026-03-02 08:00:00"), "{why}");
    assert!(why.contains("was deleted again") && why.contains("HR User"), "{why}");
    assert_eq!(count(&sim), 0);
    // Where it may not delete either, it says which log has to go.
    sim.site(|site| site.user.role = Role::LateAndStuck);
    let answered = send(&client, &arrival(&client, "1")).await;
    let log = sim.site(|site| site.logs[0].name.clone());
    assert!(
        answered.answer.contains(&log) && answered.answer.contains("delete it by hand"),
        "{}",
        answered.answer
    );
}

#[tokio::test]
async fn a_duplicate_in_another_language_is_found_by_asking() {
    let mut site = Site::with_employees(1);
    site.user.language = "de".into();
    let sim = start(site).await;
    let client = client(&sim);
    let rendered = arrival(&client, "1");
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::Delivered);
    let again = send(&client, &rendered).await;
    assert_eq!(again.outcome, Outcome::Duplicate);
    assert!(again.answer.contains("bereits"), "{}", again.answer);
    let nobody = send(&client, &arrival(&client, "99")).await;
    assert_eq!(nobody.outcome, Outcome::Refused(417), "what is not a duplicate is not taken for one");
    assert_eq!(count(&sim), 1);
    assert!(sim.asked().contains(&"list Employee Checkin".to_owned()));
}

#[tokio::test]
async fn a_user_who_may_not_look_back_holds_everything_instead_of_guessing() {
    let mut site = Site::with_employees(1);
    (site.user.language, site.user.role) = ("de".into(), Role::WriteOnly);
    let sim = start(site).await;
    let client = client(&sim);
    let rendered = arrival(&client, "1");
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::Delivered);
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::Unauthorized);
    assert!(matches!(client.look_up(event(), &rendered).await, LookedUp::Unclear(_)));
}

#[tokio::test]
async fn a_field_that_employees_do_not_have_is_nobodys_taps_fault() {
    let sim = start(Site::with_employees(1)).await;
    let client = client_as(&sim, "key:secret", &json!({ "employee_field": "badge" }));
    let rendered = arrival(&client, "1");
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::ServerError { retry_after_ms: None });
    let LookedUp::Unclear(answered) = client.look_up(event(), &rendered).await else {
        panic!("it cannot be asked")
    };
    assert!(
        matches!(answered.outcome, Outcome::Misconfigured(why) if why.contains("Employee cannot be searched"))
    );
}

#[tokio::test]
async fn coming_and_going_in_one_second_are_two_taps_where_frappe_can_hold_both() {
    let (arriving, leaving) = (Direction::In, Direction::Out);
    let both = async |version, app: &str| {
        let sim = start(Site { version, ..Site::with_employees(1) }).await;
        let client = client_as(&sim, "key:secret", &json!({ "app": app }));
        let render = |direction| client.render(event(), &tap("1", direction, MORNING)).unwrap();
        assert_eq!(send(&client, &render(arriving)).await.outcome, Outcome::Delivered);
        (send(&client, &render(leaving)).await.outcome, count(&sim))
    };
    assert_eq!(both(Version::V15, "hrms").await, (Outcome::Delivered, 2));
    // Version 13 calls the second a duplicate of the first. It is not there, so it was not delivered.
    assert_eq!(both(Version::V13, "erpnext").await, (Outcome::Refused(417), 1));
}

#[tokio::test]
async fn a_tap_that_frappe_cannot_tell_from_another_in_the_repeated_hour_is_for_a_person() {
    let sim = start(Site::with_employees(1)).await;
    let client = client(&sim);
    // 2026-10-25 02:30:00 in Berlin, and again an hour later.
    let at = |ms| client.render(event(), &tap("1", Direction::In, UtcMs(ms))).unwrap();
    let (first, second) = (at(1_792_888_200_000), at(1_792_891_800_000));
    assert_eq!(send(&client, &first).await.outcome, Outcome::Delivered);
    assert_eq!(send(&client, &first).await.outcome, Outcome::Duplicate);
    assert_eq!(send(&client, &second).await.outcome, Outcome::Refused(417));
    assert_eq!(client.look_up(event(), &second).await, LookedUp::Absent);
    assert!(matches!(client.look_up(event(), &first).await, LookedUp::Found(_)));
    let other_minute = at(1_792_891_860_000);
    assert_eq!(send(&client, &other_minute).await.outcome, Outcome::Delivered);
    let devices =
        sim.site(|site| site.logs.iter().filter_map(|log| log.device_id.clone()).collect::<Vec<_>>());
    assert_eq!(devices, ["hq-door-12 +02:00", "hq-door-12 +01:00"]);
}

#[tokio::test]
async fn two_requests_at_once_both_pass_and_so_a_lost_answer_has_to_settle_first() {
    let sim = start(Site::with_employees(1)).await;
    let client = client(&sim);
    assert_eq!((client.after_unknown(), client.settles_after_ms()), (AfterUnknown::LookUp, 120_000));
    let rendered = arrival(&client, "1");
    sim.set_faults([Fault::WaitBeforeInsert, Fault::WaitBeforeInsert]);
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::TimedOut);
    assert_eq!(sim.waiting(), 1, "a worker is still at it");
    // The trap: asked too early, Frappe has no such log, and a second request passes its check.
    assert_eq!(client.look_up(event(), &rendered).await, LookedUp::Absent);
    assert_eq!(send(&client, &rendered).await.outcome, Outcome::TimedOut);
    sim.open_gate();
    wait_until("both workers", Duration::from_secs(5), &[], async || count(&sim) == 2).await;
    let names = sim.site(|site| site.logs.iter().map(|log| log.name.clone()).collect::<Vec<_>>());
    // Passed: once the first has settled, it is found.
    assert_eq!(client.look_up(event(), &rendered).await, LookedUp::Found(names[0].clone()));
}

#[tokio::test]
async fn what_became_of_a_request_without_an_answer_is_found_out() {
    let not_understood = |text: &str| Outcome::NotUnderstood(text.into());
    let trouble = |retry_after_ms| Outcome::ServerError { retry_after_ms };
    for (fault, outcome, stored) in [
        (Fault::SilenceAfterStoring, Outcome::TimedOut, true),
        (Fault::BodyThatNeverEnds, Outcome::TimedOut, true),
        (Fault::GatewayTimeout, not_understood("504, and not from Frappe itself"), true),
        (Fault::HtmlPage, not_understood("200 with content of type \"text/html\""), false),
        (
            Fault::ErrorInside,
            Outcome::ErrorInside("OperationalError: MySQL server has gone away".into()),
            false,
        ),
        (Fault::ServerError, trouble(None), false),
        (Fault::Deadlock, trouble(None), false),
        (Fault::Updating, trouble(Some(9_000)), false),
    ] {
        let sim = start(Site::with_employees(1)).await;
        let client = client(&sim);
        let rendered = arrival(&client, "1");
        sim.set_faults([fault]);
        assert_eq!(send(&client, &rendered).await.outcome, outcome, "{fault:?}");
        let found = client.look_up(event(), &rendered).await;
        let expected =
            if stored { LookedUp::Found("EMP-CKIN-03-2026-000001".into()) } else { LookedUp::Absent };
        assert_eq!(found, expected, "{fault:?}");
        let expected = if stored { Outcome::Duplicate } else { Outcome::Delivered };
        assert_eq!(send(&client, &rendered).await.outcome, expected, "{fault:?}");
        assert_eq!(count(&sim), 1, "{fault:?}");
    }
    let sim = start(Site::with_employees(1)).await;
    let client = client(&sim);
    sim.set_faults([Fault::Reset]);
    assert_eq!(send(&client, &arrival(&client, "1")).await.outcome.word(), "broken_off");
    assert_eq!(client.look_up(event(), &arrival(&client, "1")).await, LookedUp::Absent);
}

#[tokio::test]
async fn one_persons_trouble_is_refused_for_good_and_stops_nobody_else() {
    let mut site = Site::with_employees(4);
    site.employees[1].active = false;
    let mut shift = ShiftType::day("Day", date(2026, 3, 1));
    shift.strictly_by_log_type = true;
    site.shift_types.push(shift);
    site.employees[2].shift = Some("Day".into());
    let sim = start(site).await;
    let client = client(&sim);
    let undirected =
        |person: &str| client.render(event(), &tap(person, Direction::Unspecified, MORNING)).unwrap();
    for (rendered, says) in [
        (arrival(&client, "99"), "No Employee found"),
        (arrival(&client, "2"), "Inactive Employee"),
        (undirected("3"), "Log Type is required"),
    ] {
        let refused = send(&client, &rendered).await;
        assert_eq!(refused.outcome, Outcome::Refused(417), "{says}");
        assert!(refused.answer.contains(says), "{}", refused.answer);
    }
    assert_eq!(send(&client, &arrival(&client, "4")).await.outcome, Outcome::Delivered);
    assert_eq!(send(&client, &arrival(&client, "3")).await.outcome, Outcome::Delivered);
    sim.site(|site| site.tracks_geolocation = true);
    let refused = send(&client, &arrival(&client, "1")).await;
    assert_eq!(refused.outcome, Outcome::Refused(417));
    assert!(refused.answer.contains("Latitude and longitude"), "{}", refused.answer);
}

#[tokio::test]
async fn everybodys_trouble_holds_everything_and_kills_nothing() {
    let sim = start(Site::with_employees(1)).await;
    let wrong_key = client_as(&sim, "key:wrong", &json!({}));
    let answered = send(&wrong_key, &arrival(&wrong_key, "1")).await;
    assert_eq!((answered.outcome, answered.status), (Outcome::Unauthorized, Some(401)));

    let old = client_as(&sim, "key:secret", &json!({ "app": "erpnext" }));
    let answered = send(&old, &arrival(&old, "1")).await;
    assert_eq!(answered.status, Some(404));
    assert!(matches!(answered.outcome, Outcome::Misconfigured(why) if why.contains("erpnext before")));

    sim.site(|site| site.user.role = Role::None);
    let client = client(&sim);
    let answered = send(&client, &arrival(&client, "1")).await;
    assert_eq!((answered.outcome, answered.status), (Outcome::Unauthorized, Some(403)));
}

#[tokio::test]
async fn a_site_that_has_worked_enough_says_when_to_come_back() {
    let sim = start(Site::with_employees(3)).await;
    let client = client(&sim);
    sim.set_rate_limit(RateLimit { limit_us: 500_000, window_s: 60, cost_us: 300_000 });
    assert_eq!(send(&client, &arrival(&client, "1")).await.outcome, Outcome::Delivered);
    assert_eq!(send(&client, &arrival(&client, "2")).await.outcome, Outcome::Delivered);
    let limited = send(&client, &arrival(&client, "3")).await;
    // It is 12 seconds past the minute, and windows are minutes.
    assert_eq!(limited.outcome, Outcome::RateLimited { retry_after_ms: Some(48_000) });
    sim.set_now(afternoon() + jiff::Span::new().seconds(48));
    assert_eq!(send(&client, &arrival(&client, "3")).await.outcome, Outcome::Delivered);
}

#[tokio::test]
async fn a_naming_series_that_is_behind_is_no_duplicate() {
    let sim = start(Site::with_employees(2)).await;
    let client = client(&sim);
    assert_eq!(send(&client, &arrival(&client, "1")).await.outcome, Outcome::Delivered);
    sim.site(|site| site.next_log = 1);
    let clash = send(&client, &arrival(&client, "2")).await;
    assert_eq!((clash.status, clash.outcome), (Some(409), Outcome::ServerError { retry_after_ms: None }));
    sim.site(|site| site.next_log = 2);
    assert_eq!(send(&client, &arrival(&client, "2")).await.outcome, Outcome::Delivered);
}

/// Two people of the shift `Day` on Monday 2026-03-02, one at each door.
fn with_a_shift(auto_update: bool) -> Site {
    let mut site = Site::with_employees(2);
    let mut shift = ShiftType::day("Day", date(2026, 3, 2));
    shift.auto_update_last_sync = auto_update;
    site.shift_types.push(shift);
    for employee in &mut site.employees {
        employee.shift = Some("Day".into());
    }
    site
}

fn statuses(sim: &FrappeSim) -> Vec<(String, String, Status)> {
    let marked = |site: &mut Site| {
        let all = site.attendance.iter();
        all.map(|a| (a.employee.clone(), a.date.to_string(), a.status)).collect()
    };
    sim.site(marked)
}

fn door(name: &str, through: Option<UtcMs>) -> Progress {
    Progress { controller: name.parse().unwrap(), site: "hq".into(), delivered_through: through }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[tokio::test]
async fn frappes_own_watermark_marks_people_absent_whose_taps_are_on_the_way() {
    let sim = start(with_a_shift(true)).await;
    let client = client(&sim);
    assert_eq!(send(&client, &arrival(&client, "1")).await.outcome, Outcome::Delivered);
    for day in [3, 4] {
        sim.set_now(date(2026, 3, day).at(18, 30, 0, 0));
        sim.hourly();
    }
    // The trap: the second one's door was offline. The tap comes, and changes nothing any more.
    let monday = |status| (format!("HR-EMP-{:05}", 2), "2026-03-02".to_owned(), status);
    assert!(statuses(&sim).contains(&monday(Status::Absent)));
    assert_eq!(send(&client, &arrival(&client, "2")).await.outcome, Outcome::Delivered);
    sim.hourly();
    assert!(statuses(&sim).contains(&monday(Status::Absent)));
    assert!(sim.site(|site| site.logs[1].skip_auto_attendance), "marked as skipped");
    // And it is not ours to move while Frappe does.
    let frappe = client.as_frappe_hr().unwrap();
    assert_eq!(frappe.push_watermark("Day", "2027-01-01 00:00:00").await, Pushed::AutoUpdateIsOn);
    assert_eq!(
        sim.site(|site| site.shift_types[0].last_sync_of_checkin),
        Some(date(2026, 3, 4).at(18, 1, 0, 0))
    );
}

#[tokio::test]
async fn a_watermark_of_ours_marks_nobody_before_the_last_door_is_complete() {
    let sim = start(with_a_shift(false)).await;
    let client = client_as(
        &sim,
        "key:secret",
        &json!({ "watermarks": [{ "shift_type": "Day", "sites": ["hq"], "zone": "Europe/Berlin" }] }),
    );
    let written = json!({ "kind": "frappe_hr", "url": sim.url(), "frappe_hr": {
        "watermarks": [{ "shift_type": "Day", "sites": ["hq"], "zone": "Europe/Berlin" }] } });
    let settings: DestinationSettings = serde_json::from_str(&written.to_string()).unwrap();
    let Kind::FrappeHr(kind) = settings.kind else { panic!("another kind") };
    let mark = &kind.watermarks[0];
    let frappe = client.as_frappe_hr().unwrap();
    let wednesday = UtcMs(MORNING.0 + 2 * DAY_MS);
    sim.set_now(date(2026, 3, 4).at(18, 30, 0, 0));

    // One door is complete up to Wednesday; the other one has been offline since Monday morning.
    assert_eq!(send(&client, &arrival(&client, "1")).await.outcome, Outcome::Delivered);
    let doors = [door("a", Some(wednesday)), door("b", Some(MORNING))];
    let Watermark::Move { to, held_back_by } = decide(mark, &doors, None).unwrap() else {
        panic!("it moves")
    };
    assert_eq!((to.as_str(), held_back_by.as_str()), ("2026-03-02 08:00:00", "b"));
    assert_eq!(frappe.push_watermark("Day", &to).await, Pushed::Moved);
    sim.hourly();
    assert_eq!(statuses(&sim), [], "nobody is marked for a day that is not complete");

    // It comes back, and so does what was tapped there.
    assert_eq!(send(&client, &arrival(&client, "2")).await.outcome, Outcome::Delivered);
    let doors = [door("a", Some(wednesday)), door("b", Some(wednesday))];
    let Watermark::Move { to, .. } = decide(mark, &doors, Some(&to)).unwrap() else { panic!("it moves") };
    assert_eq!(frappe.push_watermark("Day", &to).await, Pushed::Moved);
    sim.hourly();
    let monday = |n, status| (format!("HR-EMP-{n:05}"), "2026-03-02".to_owned(), status);
    let marked = statuses(&sim);
    assert!(marked.contains(&monday(1, Status::Present)) && marked.contains(&monday(2, Status::Present)));
    // On Tuesday nobody came, and that is known now.
    assert!(marked.contains(&("HR-EMP-00002".to_owned(), "2026-03-03".to_owned(), Status::Absent)));

    // It is never moved back, whoever moved it on.
    assert_eq!(
        frappe.push_watermark("Day", "2026-03-03 00:00:00").await,
        Pushed::StandsAt("2026-03-04 08:00:00".into())
    );
    assert_eq!(
        sim.site(|site| site.shift_types[0].last_sync_of_checkin),
        Some(date(2026, 3, 4).at(8, 0, 0, 0))
    );
}

#[tokio::test]
async fn a_watermark_that_cannot_be_moved_says_why() {
    let sim = start(with_a_shift(false)).await;
    let client = client(&sim);
    let frappe = client.as_frappe_hr().unwrap();
    let Pushed::Failed(answered) = frappe.push_watermark("Night / Day", "2026-03-02 08:00:00").await else {
        panic!("there is no such shift type")
    };
    assert!(
        matches!(answered.outcome, Outcome::Misconfigured(why) if why.contains("no Shift Type \"Night / Day\""))
    );
    sim.site(|site| site.user.role = Role::Employee);
    let Pushed::Failed(answered) = frappe.push_watermark("Day", "2026-03-02 08:00:00").await else {
        panic!("this user may not")
    };
    assert_eq!(answered.outcome, Outcome::Unauthorized);
    assert_eq!(sim.site(|site| site.shift_types[0].last_sync_of_checkin), None);
}

fn sample() -> Sample {
    Sample { event: event(), tap: tap("1", Direction::In, MORNING) }
}

/// The step of that name: how it ended, and what it says.
fn step<'a>(probe: &'a Probe, what: &str) -> (Finding, &'a str) {
    let step = probe.steps.iter().find(|step| step.what == what);
    step.map(|step| (step.finding, step.says.as_str())).unwrap_or_else(|| panic!("no step {what}: {probe:?}"))
}

#[tokio::test]
async fn trying_a_good_site_out_tells_it_nothing_and_with_a_sample_leaves_nothing_behind() {
    let sim = start(with_a_shift(false)).await;
    let mark = json!({ "watermarks": [{ "shift_type": "Day", "zone": "Europe/Berlin" }] });
    let client = client_as(&sim, "key:secret", &mark);
    let probe = client.probe(None).await;
    assert!(probe.is_good(), "{probe:?}");
    assert_eq!(step(&probe, "log in"), (Finding::Good, "as tapline@example.com"));
    assert_eq!(step(&probe, "encryption").0, Finding::Doubtful, "this one is http");
    assert!(sim.asked().iter().all(|asked| !asked.contains("add_log")));

    let probe = client.probe(Some(&sample())).await;
    assert!(probe.is_good(), "{probe:?}");
    assert_eq!(step(&probe, "add a check-in"), (Finding::Good, "stored at the time that was sent"));
    assert_eq!(step(&probe, "find and delete it").0, Finding::Good);
    assert_eq!(count(&sim), 0);
}

#[tokio::test]
async fn trying_out_finds_what_would_go_wrong_later() {
    let sim = start(with_a_shift(true)).await;
    let mark = json!({ "watermarks": [{ "shift_type": "Day", "zone": "Europe/Berlin" }] });
    let bad = async |client: &AnyDestination, what: &str, says: &str| {
        let probe = client.probe(Some(&sample())).await;
        let (finding, said) = step(&probe, what);
        assert!(finding == Finding::Bad && said.contains(says), "{what}: {said}");
        assert!(!probe.is_good());
    };
    bad(&client_as(&sim, "key:secret", &mark), "shift type", "Auto Update Last Sync is on").await;
    bad(&client_as(&sim, "key:wrong", &mark), "log in", "check the key, the secret").await;
    bad(&client_as(&sim, "key:secret", &json!({ "employee_field": "badge" })), "employees", "badge").await;
    let old = client_as(&sim, "key:secret", &json!({ "app": "erpnext" }));
    bad(&old, "add a check-in", "erpnext before").await;
    assert_eq!(count(&sim), 0);

    sim.site(|site| site.user.language = "de".into());
    let probe = client(&sim).probe(None).await;
    assert_eq!(step(&probe, "language").0, Finding::Doubtful);
    assert!(probe.is_good());

    sim.site(|site| site.user.role = Role::WriteOnly);
    bad(&client(&sim), "check-ins", "after a time-out nobody would know").await;
    sim.site(|site| site.user.role = Role::Employee);
    bad(&client(&sim), "add a check-in", "no right to set the time").await;
}
