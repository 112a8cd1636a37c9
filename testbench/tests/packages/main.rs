//! The packages, as `./dev deb` makes them but of the programs that were built for the tests: what is in them, what Debian's
//! own judges say, and what happens to a door's records when they are installed, upgraded, downgraded, removed and purged by
//! the real dpkg. Needs root.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use testbench::{
    rig::{program_path, wait_until},
    site::{HEALS_WITHIN, Site, SiteOptions},
};

mod machine;

use machine::Machine;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Any version that is newer.
const NEWER: &str = "99.0";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

/// The folder with the packages: of this version, and edge-agent once more as if it were newer.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    let _ = fs::remove_dir_all(&dir);
    let [programs, pages, into, newer] = ["programs", "pages", "deb", "newer"].map(|name| dir.join(name));
    fs::create_dir_all(&programs).unwrap();
    for (name, page_maker) in [("edge-agent", "edge_shell_files"), ("cloud-ingest", "cloud_shell_files")] {
        let program = program_path(name).unwrap();
        // Debug symbols of tests are large, and packing them shows nothing.
        done(Command::new("strip").arg("-o").arg(programs.join(name)).arg(&program));
        done(Command::new(program.with_file_name("examples").join(page_maker)).arg(&pages));
    }
    done(
        Command::new(root().join("packaging/pack"))
            .args([&programs, &pages])
            .args([&architecture(), VERSION])
            .arg(&into)
            .env("SOURCE_DATE_EPOCH", "1795000000")
            .env("COMPRESSION", "-Zgzip -z1"),
    );
    done(
        Command::new("dpkg-deb")
            .arg("--raw-extract")
            .arg(package_in(&into, "edge-agent", VERSION))
            .arg(&newer),
    );
    let control = newer.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap().replace(VERSION, NEWER);
    fs::write(control, text).unwrap();
    let newest = package_in(&into, "edge-agent", NEWER);
    done(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .arg(&newer)
            .arg(newest),
    );
    into
});

fn architecture() -> String {
    done(Command::new("dpkg").arg("--print-architecture")).trim().to_owned()
}

fn package_in(folder: &Path, name: &str, version: &str) -> PathBuf {
    folder.join(format!("{name}_{version}_{}.deb", architecture()))
}

fn package(name: &str, version: &str) -> PathBuf {
    package_in(&PACKAGES, name, version)
}

/// `dpkg --install` there.
fn install(name: &str, version: &str) -> String {
    format!("dpkg --no-triggers --install /mnt/{name}_{version}_{}.deb", architecture())
}

#[test]
fn the_packages_hold_what_a_door_and_a_service_need_and_debian_finds_no_fault() {
    let held = |name: &str| {
        let listed = done(Command::new("dpkg-deb").arg("--contents").arg(package(name, VERSION)));
        let paths = listed.lines().filter_map(|line| line.split_once(" ./").map(|(_, path)| path.to_owned()));
        paths.map(|path| path.trim_start_matches("usr/").to_owned()).collect::<BTreeSet<_>>()
    };
    let shared = |name: &str| {
        [
            format!("bin/{name}"),
            format!("etc/{name}/{name}.toml"),
            format!("lib/systemd/system/{name}.service"),
            format!("lib/sysusers.d/{name}.conf"),
            format!("lib/tmpfiles.d/{name}.conf"),
            format!("share/bash-completion/completions/{name}"),
            format!("share/zsh/vendor-completions/_{name}"),
            format!("share/fish/vendor_completions.d/{name}.fish"),
            format!("share/man/man1/{name}.1.gz"),
            format!("share/doc/{name}/changelog.gz"),
            format!("share/doc/{name}/copyright"),
        ]
    };
    let of_edge = [
        "lib/systemd/system/edge-agent-clock.service",
        "etc/edge-agent/conf.d/",
        "lib/modprobe.d/edge-agent.conf",
        "lib/udev/rules.d/70-edge-agent.rules",
        "share/polkit-1/rules.d/50-edge-agent.rules",
        "share/man/man1/edge-agent-outbox-pending.1.gz",
    ];
    let of_cloud = [
        "lib/systemd/system/tapline-revocations.path",
        "lib/systemd/system/tapline-revocations.service",
        "share/doc/cloud-ingest/examples/tapline.acl",
        "share/man/man1/cloud-ingest-controllers-revoke.1.gz",
    ];
    for (name, own) in [("edge-agent", of_edge.as_slice()), ("cloud-ingest", &of_cloud)] {
        let held = held(name);
        let wanted = shared(name).into_iter().chain(own.iter().map(|path| (*path).to_owned()));
        let missing: Vec<_> = wanted.filter(|path| !held.contains(path)).collect();
        assert!(missing.is_empty(), "{name} lacks {missing:?} in {held:#?}");
        let conffiles =
            done(Command::new("dpkg-deb").arg("--info").arg(package(name, VERSION)).arg("conffiles"));
        assert_eq!(conffiles, format!("/etc/{name}/{name}.toml\n"));
    }
    let packages = [package("edge-agent", VERSION), package("cloud-ingest", VERSION)];
    done(Command::new("lintian").args(["--fail-on", "error,warning", "--allow-root"]).args(packages));
}

/// What real agents left behind: a state folder of which the cloud has confirmed everything, one with taps that it has not, and
/// the configuration with its keys.
struct Left {
    dir: tempfile::TempDir,
}

impl Left {
    async fn behind() -> Left {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::start(SiteOptions::default()).await.unwrap();
        let keep = |site: &Site, name: &str| {
            done(Command::new("cp").arg("-r").arg(site.dir().join("state")).arg(dir.path().join(name)));
        };
        for n in 0..5 {
            site.tap(n).await.unwrap();
        }
        wait_until("everything to have a receipt", HEALS_WITHIN, &[], async || {
            site.edge_status().await.is_ok_and(|status| status.pending == 0)
        })
        .await;
        stop(&mut site).await;
        keep(&site, "confirmed");
        site.uplink.cut().await.unwrap();
        site.start_edge().await.unwrap();
        for n in 0..3 {
            site.tap(n).await.unwrap();
        }
        stop(&mut site).await;
        keep(&site, "pending");
        done(Command::new("cp").arg("-r").arg(site.dir().join("keys")).arg(dir.path().join("keys")));
        let at = site.dir().display().to_string();
        let config = fs::read_to_string(site.dir().join("edge-agent.toml")).unwrap();
        let config = config
            .replace(&format!("{at}/state"), "/var/lib/edge-agent")
            .replace(&format!("{at}/run"), "/run/edge-agent")
            .replace(&at, "/etc/edge-agent");
        fs::write(dir.path().join("edge-agent.toml"), config).unwrap();
        Left { dir }
    }

    /// The machine's agent has been at work for a while.
    fn put(&self, state: &str, machine: &Machine) {
        let from = |name: &str| self.dir.path().join(name);
        machine.well("rm -rf /var/lib/edge-agent/* /etc/edge-agent/keys");
        done(Command::new("cp").arg("-rT").arg(from(state)).arg(machine.path("/var/lib/edge-agent")));
        done(Command::new("cp").arg("-rT").arg(from("keys")).arg(machine.path("/etc/edge-agent/keys")));
        fs::copy(from("edge-agent.toml"), machine.path("/etc/edge-agent/edge-agent.toml")).unwrap();
        machine.well("chown -R edge-agent: /var/lib/edge-agent /etc/edge-agent/keys");
    }
}

async fn stop(site: &mut Site) {
    let mut edge = site.edge.take().expect("edge-agent runs");
    edge.terminate(std::time::Duration::from_secs(15)).await.unwrap();
}

const LIST: &str = "edge-agent outbox list";

/// Which version dpkg says is there, and how it is.
fn status(machine: &Machine, name: &str) -> String {
    machine.well(&format!("dpkg-query --show --showformat '${{Version}} ${{db:Status-Status}}' {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_of_a_doors_package_loses_a_record() {
    let left = Left::behind().await;
    let machine = Machine::with(&PACKAGES);

    let said = machine.well(&install("edge-agent", VERSION));
    assert!(said.contains("this door is not in service yet") && said.contains("edge-agent enroll"), "{said}");
    let owner = machine.well("stat --format '%U %a' /var/lib/edge-agent; id --groups --name edge-agent");
    assert_eq!(owner, "edge-agent 700\nedge-agent dialout\n");
    machine.well("test -L /etc/systemd/system/multi-user.target.wants/edge-agent.service");
    let not_enrolled = machine.sh("edge-agent run");
    assert!(!not_enrolled.well && not_enrolled.text.contains("is not enrolled"), "{not_enrolled:?}");
    machine.well("code=0; edge-agent run || code=$?; test $code = 78");

    left.put("pending", &machine);
    let records = machine.well(LIST);
    let said = machine.well(&install("edge-agent", NEWER));
    assert!(!said.contains("not in service"), "{said}");
    assert_eq!(status(&machine, "edge-agent"), format!("{NEWER} installed"));
    assert_eq!(machine.well(LIST), records, "an upgrade touches no record");

    let refused = machine.sh(&install("edge-agent", VERSION));
    assert!(
        !refused.well && refused.text.contains("refusing to put") && refused.text.contains("allow-downgrade")
    );
    assert_eq!(status(&machine, "edge-agent"), format!("{NEWER} installed"));
    assert_eq!(machine.well(LIST), records);
    machine.well("touch /etc/edge-agent/allow-downgrade");
    machine.well(&install("edge-agent", VERSION));
    assert_eq!(status(&machine, "edge-agent"), format!("{VERSION} installed"));
    machine.well("test ! -e /etc/edge-agent/allow-downgrade");
    machine.well(&install("edge-agent", NEWER));

    let said = machine.well("dpkg --no-triggers --remove edge-agent");
    assert!(said.contains("records are not confirmed by the cloud"), "{said}");
    assert_eq!(status(&machine, "edge-agent"), format!("{NEWER} config-files"));
    let refused = machine.sh(&install("edge-agent", VERSION));
    assert!(
        !refused.well && refused.text.contains("refusing to put"),
        "what is left behind is a newer one's"
    );
    machine.well(&install("edge-agent", NEWER));
    assert_eq!(machine.well(LIST), records, "removing keeps every record");

    let said = machine.well("dpkg --no-triggers --purge edge-agent");
    assert!(said.contains("not deleted") && said.contains("/var/backups/edge-agent-outbox-"), "{said}");
    machine.well("test ! -e /var/lib/edge-agent");
    // What a person then types is what was said.
    let back = said.lines().find(|line| line.contains("mv -T")).unwrap();
    machine.well(&install("edge-agent", NEWER));
    machine.well(back);
    left.put_configuration(&machine);
    assert_eq!(machine.well(LIST), records, "purging keeps what the cloud has not confirmed");
    machine.well("test \"$(stat --format %U /var/lib/edge-agent/outbox)\" = edge-agent");
    machine.well("test -z \"$(ls /var/backups | grep edge-agent)\"");

    left.put("confirmed", &machine);
    let said = machine.well("dpkg --no-triggers --purge edge-agent");
    assert!(said.contains("has confirmed all records"), "{said}");
    machine.well("test ! -e /var/lib/edge-agent && test -z \"$(ls /var/backups | grep edge-agent)\"");
}

impl Left {
    /// A purge has deleted the configuration, as it should.
    fn put_configuration(&self, machine: &Machine) {
        let file = "edge-agent.toml";
        fs::copy(self.dir.path().join(file), machine.path("/etc/edge-agent").join(file)).unwrap();
    }
}

#[test]
fn a_service_starts_with_the_configuration_that_is_installed_and_a_purge_keeps_store_and_keys() {
    let machine = Machine::with(&PACKAGES);
    let said = machine.well(&install("cloud-ingest", VERSION));
    assert!(said.contains("it is not in service yet") && said.contains("keys create"), "{said}");
    let as_itself = |verb: &str| {
        format!("setpriv --reuid cloud-ingest --regid cloud-ingest --init-groups -- cloud-ingest {verb}")
    };
    machine.well(&as_itself("keys create"));
    machine.well(&as_itself("ca init"));
    machine.well(&as_itself("config check"));
    machine.well("touch /var/lib/cloud-ingest/cloud-ingest.db");
    machine.well(
        "for unit in cloud-ingest.service tapline-revocations.path; do test -L /etc/systemd/system/multi-user.target.wants/$unit; done",
    );
    let keys = machine.well("cd /etc/cloud-ingest/keys && sha256sum *");

    let said = machine.well("dpkg --no-triggers --purge cloud-ingest");
    assert!(said.contains("store and keys were not deleted"), "{said}");
    assert_eq!(machine.well("cd /var/backups/cloud-ingest-*/keys && sha256sum *"), keys);
    machine.well("test -e /var/backups/cloud-ingest-*/cloud-ingest/cloud-ingest.db");
    machine.well("test ! -e /var/lib/cloud-ingest && test ! -e /etc/cloud-ingest");
}

/// What `systemd-analyze security` says at most, in tenths.
const EXPOSURE: [(&str, u32); 3] = [("edge-agent", 12), ("edge-agent-clock", 6), ("cloud-ingest", 9)];

#[test]
fn systemd_understands_every_line_of_the_units_and_finds_them_well_shut() {
    let machine = Machine::with(&PACKAGES);
    machine.well(&install("edge-agent", VERSION));
    machine.well(&install("cloud-ingest", VERSION));
    let units = "edge-agent.service edge-agent-clock.service cloud-ingest.service tapline-revocations.path tapline-revocations.service";
    machine.well(&format!("systemd-analyze verify --recursive-errors=yes --man=no {units}"));
    for (name, most) in EXPOSURE {
        let judged = machine.well(&format!(
            "systemd-analyze security --offline=true --no-pager /lib/systemd/system/{name}.service | tail -n 1"
        ));
        let level = judged.split_whitespace().find_map(|word| word.parse::<f64>().ok()).unwrap();
        assert!(level * 10.0 <= f64::from(most) + 0.01, "{judged}");
    }
}

#[test]
fn a_door_wants_pcscd_and_waits_for_nothing_but_the_drivers_of_serial_readers() {
    let unit = fs::read_to_string(root().join("systemd/edge-agent.service")).unwrap();
    let said = |keys: &[&str]| -> BTreeSet<String> {
        let lines = unit.lines().filter_map(|line| line.split_once('='));
        let named = lines.filter(|(key, _)| keys.contains(key));
        named.flat_map(|(_, units)| units.split_whitespace().map(str::to_owned)).collect()
    };
    assert!(said(&["Wants"]).contains("pcscd.socket"));
    assert_eq!(said(&["Requires", "Requisite", "BindsTo", "PartOf", "Upholds"]), BTreeSet::new());
    let drivers = ["modprobe@cdc_acm.service", "modprobe@usbserial.service"].map(str::to_owned);
    assert_eq!(said(&["After"]), BTreeSet::from(drivers));
}
