//! Step 12 on real sockets: what each way in which a legacy API can misbehave comes to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use cloud_ingest::clock::Clock;
use cloud_ingest::destination::guard::Guard;
use cloud_ingest::destination::http_json::{CannotStart, Connection, HttpJson, MAX_BODY_BYTES};
use cloud_ingest::destination::settings::AfterUnknown;
use cloud_ingest::destination::{Answered, Destination, Outcome};
use cloud_ingest::event_store::UtcMs;
use tap_protocol::ids::{EventId, OutboxId, Seq};

const PATIENCE: Duration = Duration::from_millis(300);

fn event() -> EventId {
    EventId::new(&"hq-door-12".parse().unwrap(), OutboxId([7; 16]), Seq(258))
}

/// A destination with these settings for a JSON API, on loopback.
fn destination(address: SocketAddr, settings: &str) -> HttpJson {
    let url = format!("http://{address}/attendance").parse().unwrap();
    let connection = Connection {
        url: &url,
        timeout: PATIENCE,
        after_unknown: AfterUnknown::Repeat,
        authorization: Some("token secret"),
        guard: Guard::default().named_by(&url),
        clock: Clock::from_fn(|| UtcMs(0)),
    };
    HttpJson::new(&serde_json::from_str(settings).unwrap(), connection).unwrap()
}

/// One request to `address`.
async fn send(address: SocketAddr) -> Answered {
    // Another test may have chosen it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    destination(address, "{}").send(event(), "{\"person\":\"E-1\"}".into()).await
}

/// A server for one request: hands the request over and says exactly `answer`, then closes, or waits if told to.
fn server(answer: impl Into<Vec<u8>>, hangs: bool) -> (SocketAddr, thread::JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&request).contains("\"E-1\"}") {
            let n = connection.read(&mut buffer).unwrap();
            assert!(n > 0, "the request ended early");
            request.extend_from_slice(&buffer[..n]);
        }
        // The client may have read enough and gone.
        let _ = connection.write_all(&answer);
        if hangs {
            // Until the client loses patience.
            let _ = connection.read(&mut buffer);
        }
        String::from_utf8(request).unwrap()
    });
    (address, serving)
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_request_carries_key_body_and_authorization() {
    let (address, serving) = server(ok("content-length: 15", "{\"status\":\"ok\"}"), false);
    let answered = send(address).await;
    assert_eq!(
        answered,
        Answered { outcome: Outcome::Delivered, status: Some(200), answer: "{\"status\":\"ok\"}".into() }
    );
    let request = serving.join().unwrap();
    assert!(request.starts_with("POST /attendance HTTP/1.1\r\n"), "{request}");
    for line in [
        "content-type: application/json",
        "idempotency-key: 058b8351-c0a3-8a64-a2a3-000000000102",
        "authorization: token secret",
    ] {
        assert!(request.lines().any(|have| have.eq_ignore_ascii_case(line)), "{line} is not in {request}");
    }
    assert!(request.ends_with("\r\n\r\n{\"person\":\"E-1\"}"));
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answered = send(free).await;
    assert_eq!((answered.outcome.word(), answered.status), ("unreachable", None));
    assert!(!answered.answer.contains("http://"), "{}", answered.answer);
}

#[tokio::test]
async fn silence_is_a_timeout_before_and_after_the_headers() {
    let (address, _) = server("", true);
    assert_eq!(send(address).await.outcome, Outcome::TimedOut);

    let (address, _) = server(ok("content-length: 100", "{\"status\":"), true);
    let answered = send(address).await;
    assert_eq!((answered.outcome, answered.status), (Outcome::TimedOut, Some(200)));
}

#[tokio::test]
async fn a_connection_that_breaks_after_sending_leaves_it_open() {
    let (address, _) = server("", false);
    assert_eq!(send(address).await.outcome.word(), "broken_off");
    let (address, _) = server(ok("content-length: 100", "{\"status\":\"ok\"}"), false);
    assert_eq!(send(address).await.outcome.word(), "broken_off");
    let (address, _) = server("\u{1}\u{2}rubbish\r\n\r\n", false);
    assert_eq!(send(address).await.outcome.word(), "broken_off");
}

#[tokio::test]
async fn no_more_than_64_kib_of_an_answer_are_read() {
    let endless = " ".repeat(64 * MAX_BODY_BYTES);
    let (address, _) = server(ok(&format!("content-length: {}", endless.len()), &endless), false);
    let answered = send(address).await;
    assert_eq!(answered.outcome, Outcome::NotUnderstood("200 with more than 64 KiB".into()));
    assert_eq!(answered.answer.len(), 1024);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let elsewhere = target.local_addr().unwrap();
    let answer = format!("HTTP/1.1 307 Go\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let (address, _) = server(answer, false);
    assert_eq!(send(address).await.outcome.word(), "not_understood");
    assert!(target.accept().is_err(), "it was followed");
}

#[tokio::test]
async fn a_template_decides_method_path_headers_and_body() {
    let (address, serving) = server(ok("content-length: 14", "{\"saved\":true}"), false);
    let destination = destination(
        address,
        r#"{"template":{"method":"PUT","path":"/people/{person}","idempotency_header":"X-Request-Id",
                        "headers":[{"name":"X-Source","value":"doors"}],"body":{"who":"{person}"}},
            "answers":[{"status":[200],"when":[{"at":"/saved","is":true}],"means":"delivered"}]}"#,
    );
    let answered = destination.send(event(), "/people/E%201\n{\"who\":\"E-1\"}".into()).await;
    assert_eq!(answered.outcome, Outcome::Delivered);
    let request = serving.join().unwrap();
    assert!(request.starts_with("PUT /attendance/people/E%201 HTTP/1.1\r\n"), "{request}");
    let key = "x-request-id: 058b8351-c0a3-8a64-a2a3-000000000102";
    assert!(request.contains(key) && request.contains("x-source: doors"), "{request}");
    assert!(!request.contains("idempotency-key"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"who\":\"E-1\"}"), "{request}");
}

#[tokio::test]
async fn what_is_said_cannot_play_with_the_terminal_of_whoever_reads_it() {
    let (address, _) = server("HTTP/1.1 500 No\r\ncontent-length: 7\r\n\r\n\u{1b}[2J\u{7}!!", false);
    let answered = send(address).await;
    assert_eq!(answered.answer, "\u{fffd}[2J\u{fffd}!!");
}

#[tokio::test]
async fn nothing_is_decompressed_however_small_it_looks() {
    // What gzip makes of a mebibyte of zeros starts like this.
    let bomb = "\u{1f}\u{8b}\u{8}";
    let (address, serving) = server(ok("content-encoding: gzip\r\ncontent-length: 4", bomb), false);
    let answered = send(address).await;
    assert_eq!(answered.outcome, Outcome::NotUnderstood("200 with a body that is no JSON".into()));
    assert!(!serving.join().unwrap().to_lowercase().contains("accept-encoding"), "it was not even asked for");
}

#[tokio::test]
async fn headers_without_end_are_not_read_to_their_end() {
    let many = (0..10_000).map(|i| format!("x-{i}: y\r\n")).collect::<String>();
    let (address, _) = server(format!("HTTP/1.1 200 OK\r\n{many}\r\n"), false);
    assert_eq!(send(address).await.outcome.word(), "broken_off");
    let long = "y".repeat(1 << 20);
    let (address, _) = server(format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"), false);
    assert_eq!(send(address).await.outcome.word(), "broken_off");
}

#[tokio::test]
async fn an_address_that_nobody_allowed_is_not_even_connected_to() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let there = TcpListener::bind("127.0.0.1:0").unwrap();
    there.set_nonblocking(true).unwrap();
    let url = format!("http://{}/", there.local_addr().unwrap()).parse().unwrap();
    let connection = Connection {
        url: &url,
        timeout: PATIENCE,
        after_unknown: AfterUnknown::Repeat,
        authorization: None,
        guard: Guard::default(),
        clock: Clock::from_fn(|| UtcMs(0)),
    };
    let refused = HttpJson::new(&Default::default(), connection).err().unwrap();
    assert!(matches!(refused, CannotStart::Forbidden(_)), "{refused}");
    assert!(there.accept().is_err());
}
