//! `edge-agent diag collect`: what support needs to know of a door, in one file, and nothing that identifies a card or opens
//! a lock. Everything that goes in goes through `Bundle::add`, which is where secrets are taken out.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL, HEXLOWER};
use serde_json::{Value, json};

use crate::check::{Agent, Checked};
use crate::clock;
use crate::config::{Config, layers};
use crate::control::{Request, Response, question_blocking};

mod scrub;
mod tar;

use scrub::Scrub;

/// A command that takes longer is left out.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// No part is larger; what is, is cut at the front, because the end is newer.
const MAX_PART_BYTES: usize = 2 << 20;

/// What is collected.
pub struct Bundle {
    scrub: Scrub,
    parts: Vec<(String, String)>,
}

/// Collects everything that can be had; what cannot says why in its place.
pub fn collect(config_file: &Path, config: Option<&Config>, agent: &Agent, checked: &[Checked]) -> Bundle {
    let mut bundle = Bundle { scrub: scrub_for(config, agent), parts: Vec::new() };
    bundle.add_json("about.json", &about());
    bundle.add("configuration.txt", &configuration(config_file));
    let status = match agent {
        Agent::Running(status) => json!(status),
        Agent::Stopped => json!({"agent": "stopped"}),
        Agent::Unknown(why) => json!({"agent": why}),
    };
    bundle.add_json("status.json", &status);
    bundle.add_json("check.json", &json!(checked));
    if let Some(config) = config {
        bundle.add_json("outbox.json", &outbox(&config.outbox_dir()));
        if let Ok(Response::Metrics(text)) = question_blocking(&config.control_socket(), &Request::Metrics) {
            bundle.add("metrics.txt", &text);
        }
    }
    let unit = |name, lines| {
        command("journalctl", &["--unit", name, "--lines", lines, "--output", "short-iso", "--no-pager"])
    };
    bundle.add("journal-edge-agent.txt", &unit("edge-agent", "2000"));
    bundle.add("journal-pcscd.txt", &unit("pcscd", "500"));
    bundle.add("unit.txt", &command("systemctl", &["cat", "edge-agent.service", "--no-pager"]));
    bundle.add("kernel.txt", &command("dmesg", &[]));
    bundle.add("modules.txt", &std::fs::read_to_string("/proc/modules").unwrap_or_default());
    bundle.add("mounts.txt", &std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    bundle.add_json("usb.json", &usb());
    bundle.add("pcscd.txt", &command("pcscd", &["--version"]));
    bundle
}

impl Bundle {
    /// The only way in.
    fn add(&mut self, name: &str, text: &str) {
        let mut start = text.len().saturating_sub(MAX_PART_BYTES);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        self.parts.push((name.to_owned(), self.scrub.text(&text[start..])));
    }

    /// The same for JSON: only its texts can hold something, so that numbers stay what they are.
    fn add_json(&mut self, name: &str, value: &Value) {
        let mut value = value.clone();
        self.scrub.json(&mut value);
        self.parts.push((name.to_owned(), serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"));
    }

    /// The names of all parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(name, _)| name.as_str())
    }

    /// As a tar archive with one folder in it.
    pub fn tar(&self, folder: &str) -> Vec<u8> {
        let now_s = u64::try_from(clock::read().wall_ms / 1000).unwrap_or(0);
        tar::archive(
            self.parts.iter().map(|(name, text)| (format!("{folder}/{name}"), text.as_bytes())),
            now_s,
        )
    }
}

/// Knows our own keys, so that they are found in whatever form, and our own ids, which may stay.
fn scrub_for(config: Option<&Config>, agent: &Agent) -> Scrub {
    let mut secrets = Vec::new();
    let mut known = Vec::new();
    if let Some(config) = config {
        for file in [&config.keys.record_key_file, &config.keys.token_key_file] {
            let hex = std::fs::read_to_string(file).unwrap_or_default().trim().to_lowercase();
            if let Ok(key) = HEXLOWER.decode(hex.as_bytes())
                && !key.is_empty()
            {
                secrets.extend([BASE64.encode(&key), BASE64URL.encode(&key), hex]);
            }
        }
        let newest = config.enrolment.as_ref().and_then(|sets| sets.newest().read().ok());
        for entry in newest.iter().flat_map(|newest| &newest.bundle.token_keys) {
            if let Ok(key) = HEXLOWER.decode(entry.key.to_lowercase().as_bytes()) {
                secrets.extend([BASE64.encode(&key), BASE64URL.encode(&key), HEXLOWER.encode(&key)]);
            }
        }
        let outboxes = std::fs::read_dir(config.outbox_dir()).into_iter().flatten().flatten();
        known.extend(
            outboxes.filter_map(|file| Some(file.path().file_stem()?.to_string_lossy().into_owned())),
        );
    }
    known.extend(clock::boot_id().map(|id| id.to_string()));
    if let Agent::Running(status) = agent {
        known.extend(status.outboxes.iter().map(|outbox| outbox.outbox.to_string()));
    }
    Scrub::new(secrets, known)
}

fn about() -> Value {
    let read = |path: &str| {
        std::fs::read_to_string(path).ok().map(|text| text.trim_matches(['\0', '\n', ' ']).to_owned())
    };
    let now = clock::read();
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let memory = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "machine": read("/sys/firmware/devicetree/base/model"),
        "architecture": std::env::consts::ARCH,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "system": read("/etc/os-release"),
        "memory_kb": {"total": memory("MemTotal"), "available": memory("MemAvailable")},
        "boottime_ms": now.boottime_ms,
        "wall_ms": now.wall_ms,
        "clock": now.clock.name(),
    })
}

/// What is said, not how: comments may hold anything.
fn configuration(file: &Path) -> String {
    match layers(file) {
        Ok(layers) => {
            let said =
                layers.all().into_iter().map(|(path, value, place)| format!("{path} = {value}  # {place}\n"));
            said.collect()
        }
        Err(error) => format!("{error}\n"),
    }
}

/// Files and sizes, never records.
fn outbox(folder: &Path) -> Value {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files: Vec<Value> = files
        .map(|file| json!({"file": file.file_name().to_string_lossy(), "bytes": file.metadata().map_or(0, |meta| meta.len())}))
        .collect();
    let disk = rustix::fs::statvfs(folder).ok();
    json!({
        "folder": folder,
        "files": files,
        "free_bytes": disk.map(|disk| disk.f_bavail * disk.f_frsize),
    })
}

fn usb() -> Value {
    let devices = std::fs::read_dir("/sys/bus/usb/devices").into_iter().flatten().flatten();
    let fact = |path: &Path, name: &str| {
        std::fs::read_to_string(path.join(name)).ok().map(|text| text.trim().to_owned())
    };
    let devices = devices.map(|device| device.path()).filter(|path| path.join("idVendor").exists());
    let devices = devices.map(|path| {
        json!({
            "port": path.file_name().map(|name| name.to_string_lossy().into_owned()),
            "vendor": fact(&path, "idVendor"),
            "product": fact(&path, "idProduct"),
            "maker": fact(&path, "manufacturer"),
            "name": fact(&path, "product"),
            "firmware": fact(&path, "bcdDevice"),
            "speed": fact(&path, "speed"),
            "power": fact(&path, "power/control"),
        })
    });
    devices.collect()
}

/// What a command prints, on either output; or why there is nothing.
fn command(program: &'static str, args: &[&'static str]) -> String {
    let (answer, answered) = sync_channel(1);
    let args = args.to_vec();
    std::thread::spawn(move || {
        let _ = answer.send(Command::new(program).args(args).output());
    });
    match answered.recv_timeout(COMMAND_TIMEOUT) {
        Ok(Ok(output)) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            format!("{out}{err}")
        }
        Ok(Err(error)) => format!("{program} cannot be run: {error}\n"),
        Err(_) => format!("{program} does not come to an end\n"),
    }
}
