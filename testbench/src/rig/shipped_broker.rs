//! A real Mosquitto with the configuration that we ship: other ports and folders, and nothing else. It doesn't know what
//! is published.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use super::{Authority, Identity, Mosquitto, free_port};

/// The files as they are shipped, by name: from `packaging/mosquitto/`.
pub const SHIPPED: [(&str, &str); 4] = [
    ("tapline.conf", include_str!("../../../packaging/mosquitto/tapline.conf")),
    ("tapline.service-tls.conf", include_str!("../../../packaging/mosquitto/tapline.service-tls.conf")),
    ("tapline.acl", include_str!("../../../packaging/mosquitto/tapline.acl")),
    ("tapline-service.acl", include_str!("../../../packaging/mosquitto/tapline-service.acl")),
];

/// Where the shipped files say that everything is.
const SHIPPED_FOLDER: &str = "/etc/mosquitto/";

/// Where its certificates are, in its folder.
pub const FILES: &str = "etc/tapline";

/// A planted change in one of the shipped files, for tests that show that it would be noticed.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// In which file.
    pub file: &'static str,
    /// What stands there.
    pub from: &'static str,
    /// What is to stand there.
    pub to: &'static str,
}

/// The files with keys that the configuration names.
#[derive(Debug)]
pub struct Pki {
    /// Whom the controllers' listener trusts.
    pub root: Authority,
    /// What the broker shows.
    pub server: Identity,
    /// What cloud-ingest shows on another machine: signed by itself.
    pub service: Identity,
}

/// A broker as shipped; killed on drop.
#[derive(Debug)]
pub struct ShippedBroker {
    /// The process.
    pub process: Mosquitto,
    /// The controllers' listener: 8883.
    pub controllers: SocketAddr,
    /// The listener for a cloud-ingest on the same machine: 1884.
    pub service: SocketAddr,
    /// The listener for a cloud-ingest on another machine: 8884.
    pub service_tls: SocketAddr,
    /// Not shipped: who connects here may do everything, to see what really happens.
    pub observer: SocketAddr,
    folder: PathBuf,
}

impl Pki {
    /// Makes all of them.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made.
    pub fn new() -> anyhow::Result<Pki> {
        Pki::of(Authority::new("Tapline test root")?)
    }

    /// Makes the others for this root.
    ///
    /// # Errors
    ///
    /// When a certificate cannot be made.
    pub fn of(root: Authority) -> anyhow::Result<Pki> {
        let server = root.server()?;
        Ok(Pki { root, server, service: Identity::self_signed("cloud-ingest")? })
    }
}

impl ShippedBroker {
    /// Starts it in `dir`, with an empty list of revocations. The edits are made first.
    ///
    /// # Errors
    ///
    /// When it isn't installed or doesn't come up; the end of its log is part of the message.
    pub async fn start(dir: &Path, pki: &Pki, edits: &[Edit]) -> anyhow::Result<ShippedBroker> {
        let files = dir.join(FILES);
        fs::create_dir_all(&files)?;
        pki.server.write(&files, "server")?;
        pki.service.write(&files, "service")?;
        fs::write(files.join("ca.pem"), pki.root.certificate())?;
        fs::write(files.join("crl.pem"), pki.root.revocations(&[], 60)?)?;
        Self::start_with_files(dir, edits).await
    }

    /// Starts it in `dir` with the certificates that somebody has put into [`FILES`] there. Without `service.pem` among
    /// them, cloud-ingest is on this machine.
    ///
    /// # Errors
    ///
    /// Like [`start`](Self::start).
    pub async fn start_with_files(dir: &Path, edits: &[Edit]) -> anyhow::Result<ShippedBroker> {
        let folder = dir.join("etc");
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [controllers, service, service_tls, observer] = std::array::from_fn(|_| here(free_port()));
        let places = Places { folder: folder.clone(), controllers, service, service_tls };
        let is_elsewhere = dir.join(FILES).join("service.pem").exists();
        let mut configuration = String::new();
        for (name, text) in SHIPPED {
            let text = places.derive(&edited(name, text, edits)?);
            fs::write(folder.join(name), &text)?;
            if name.ends_with(".conf") && (is_elsewhere || name != "tapline.service-tls.conf") {
                configuration += &text;
            }
        }
        configuration += &format!("listener {} {}\nallow_anonymous true\n", observer.port(), observer.ip());
        // It opens its listeners in their order: when the last one answers, all do.
        let process = Mosquitto::start_with(dir, &configuration, observer).await?;
        Ok(ShippedBroker { process, controllers, service, service_tls, observer, folder })
    }

    /// Puts another file into the folder with the certificates, in one step, and has the broker read them again. When it
    /// returns, whoever connects is judged by what the broker made of it.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or the broker not be told.
    pub async fn reload(&self, name: &str, content: &str) -> anyhow::Result<()> {
        let file = self.folder.join("tapline").join(name);
        let new = file.with_extension("new");
        fs::write(&new, content)?;
        fs::rename(&new, &file)?;
        self.process.reload().await.context("telling mosquitto to read its files again")
    }
}

/// Where everything is here.
struct Places {
    folder: PathBuf,
    controllers: SocketAddr,
    service: SocketAddr,
    service_tls: SocketAddr,
}

impl Places {
    fn derive(&self, shipped: &str) -> String {
        let listens = |addr: &SocketAddr| format!("listener {} {}", addr.port(), addr.ip());
        let derive_line = |line: &str| match line {
            "listener 8883" => listens(&self.controllers),
            "listener 1884 127.0.0.1" => listens(&self.service),
            "listener 8884" => listens(&self.service_tls),
            line if line.starts_with('#') => line.to_owned(),
            line => line.replace(SHIPPED_FOLDER, &format!("{}/", self.folder.display())),
        };
        shipped.lines().map(|line| derive_line(line) + "\n").collect()
    }
}

fn edited(name: &str, text: &str, edits: &[Edit]) -> anyhow::Result<String> {
    edits.iter().filter(|edit| edit.file == name).try_fold(text.to_owned(), |text, edit| {
        ensure!(text.matches(edit.from).count() == 1, "{name} has one `{}`", edit.from);
        Ok(text.replace(edit.from, edit.to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_file_differs_from_the_shipped_one_in_ports_and_folders_only() {
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let places =
            Places { folder: "/tmp/x".into(), controllers: here(1), service: here(2), service_tls: here(3) };
        let mut changed = Vec::new();
        for (name, shipped) in SHIPPED {
            let derived = places.derive(shipped);
            assert_eq!(derived.lines().count(), shipped.lines().count());
            changed.extend(
                shipped
                    .lines()
                    .zip(derived.lines())
                    .filter(|(before, after)| before != after)
                    .map(|(before, after)| format!("{name}: {before} -> {after}")),
            );
        }
        assert_eq!(
            changed,
            [
                "tapline.conf: listener 8883 -> listener 1 127.0.0.1",
                "tapline.conf: cafile /etc/mosquitto/tapline/ca.pem -> cafile /tmp/x/tapline/ca.pem",
                "tapline.conf: certfile /etc/mosquitto/tapline/server.pem -> certfile /tmp/x/tapline/server.pem",
                "tapline.conf: keyfile /etc/mosquitto/tapline/server.key -> keyfile /tmp/x/tapline/server.key",
                "tapline.conf: crlfile /etc/mosquitto/tapline/crl.pem -> crlfile /tmp/x/tapline/crl.pem",
                "tapline.conf: acl_file /etc/mosquitto/tapline.acl -> acl_file /tmp/x/tapline.acl",
                "tapline.conf: listener 1884 127.0.0.1 -> listener 2 127.0.0.1",
                "tapline.conf: acl_file /etc/mosquitto/tapline-service.acl -> acl_file /tmp/x/tapline-service.acl",
                "tapline.service-tls.conf: listener 8884 -> listener 3 127.0.0.1",
                "tapline.service-tls.conf: cafile /etc/mosquitto/tapline/service.pem -> cafile /tmp/x/tapline/service.pem",
                "tapline.service-tls.conf: certfile /etc/mosquitto/tapline/server.pem -> certfile /tmp/x/tapline/server.pem",
                "tapline.service-tls.conf: keyfile /etc/mosquitto/tapline/server.key -> keyfile /tmp/x/tapline/server.key",
                "tapline.service-tls.conf: acl_file /etc/mosquitto/tapline-service.acl -> acl_file /tmp/x/tapline-service.acl",
            ]
        );
    }
}
