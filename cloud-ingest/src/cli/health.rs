//! Beside the line: asks the service on this machine how it is, for container engines, scripts and people. Reads the
//! configuration and knows the answers of `/health`; touches neither store nor keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{ConfigFile, Form, Output, print_json};
use crate::telemetry::with_causes;

/// Nothing answers where the service should be (`EX_UNAVAILABLE` of sysexits.h).
const EXIT_UNAVAILABLE: u8 = 69;

/// A service whose answer takes longer is as good as gone for whoever waits for it.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Only whether it lives: for those who would restart it, which mends no broker and no database
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let address = from_here(args.config.load()?.http.listen);
    let url = format!("http://{address}/health/{}", if args.live { "live" } else { "ready" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (code, status, reasons) = match runtime.block_on(ask(&url)) {
        Ok((true, _)) => (0, if args.live { "live" } else { "ready" }, Vec::new()),
        Ok((false, answer)) => (1, "not_ready", reasons(&answer)),
        Err(error) => (EXIT_UNAVAILABLE, "no_answer", vec![with_causes(error.as_ref())]),
    };
    match args.output.output {
        Form::Json => print_json(&json!({ "status": status, "reasons": reasons }))?,
        Form::Table => {
            println!("{}", status.replace('_', " "));
            reasons.iter().for_each(|reason| println!("  {reason}"));
        }
    }
    Ok(ExitCode::from(code))
}

/// A listener on all addresses is reached on this machine's own.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(url: &str) -> anyhow::Result<(bool, Value)> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let answer = client.get(url).send().await.with_context(|| format!("no service answers at {url}"))?;
    let is_well = answer.status().is_success();
    Ok((is_well, answer.json().await.unwrap_or_default()))
}

/// Why it is not ready; some other server at this address has no reasons of ours.
fn reasons(answer: &Value) -> Vec<String> {
    let told = answer["reasons"].as_array().into_iter().flatten();
    let told: Vec<String> = told.filter_map(|reason| reason.as_str().map(str::to_owned)).collect();
    if told.is_empty() { vec!["it does not say why: is this cloud-ingest?".to_owned()] } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_this_machines_own() {
        for (listen, asked) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("192.0.2.7:80", "192.0.2.7:80"),
        ] {
            assert_eq!(from_here(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn reasons_are_those_that_it_tells() {
        assert_eq!(
            reasons(&json!({ "reasons": ["the store does not answer"] })),
            ["the store does not answer"]
        );
        assert_eq!(reasons(&Value::Null).len(), 1);
    }
}
