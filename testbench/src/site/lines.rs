//! The broker of a site, and how both sides reach it: in clear, or as it is shipped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{CONTROLLER, run};
use crate::rig::{Authority, FILES, Mosquitto, MosquittoOptions, Pki, ShippedBroker};

/// A broker, and how both sides reach it.
pub(super) struct Lines {
    pub(super) broker: Mosquitto,
    pub(super) for_controllers: SocketAddr,
    pub(super) for_cloud: SocketAddr,
    pub(super) controllers_scheme: &'static str,
    pub(super) clouds_scheme: &'static str,
    /// What a controller's configuration says of its certificates.
    pub(super) controllers_files: String,
    /// The same for cloud-ingest.
    pub(super) clouds_files: String,
}

impl Lines {
    /// A broker that lets everybody do everything.
    pub(super) async fn in_clear(dir: &Path, options: &MosquittoOptions) -> anyhow::Result<Lines> {
        let broker = Mosquitto::start(dir, options).await?;
        let addr = broker.addr();
        let (controllers_files, clouds_files) = (String::new(), String::new());
        Ok(Lines {
            broker,
            for_controllers: addr,
            for_cloud: addr,
            controllers_scheme: "mqtt",
            clouds_scheme: "mqtt",
            controllers_files,
            clouds_files,
        })
    }

    /// The broker as it is shipped, with certificates that are good for two days.
    pub(super) async fn as_shipped(dir: &Path) -> anyhow::Result<Lines> {
        let pki = Pki::of(Authority::lasting("Tapline test root", 2)?)?;
        let broker = ShippedBroker::start(dir, &pki, &[]).await?;
        let root = dir.join("root.pem");
        std::fs::write(&root, pki.root.certificate())?;
        let files = |(certificate, key): (PathBuf, PathBuf)| {
            let lines = [("ca_file", root.as_path()), ("cert_file", &certificate), ("key_file", &key)];
            lines.map(|(name, file)| format!("{name} = \"{}\"\n", file.display())).concat()
        };
        Ok(Lines {
            for_controllers: broker.controllers,
            for_cloud: broker.service_tls,
            broker: broker.process,
            controllers_scheme: "mqtts",
            clouds_scheme: "mqtts",
            controllers_files: files(pki.root.controller(CONTROLLER)?.write(dir, "controller")?),
            clouds_files: files(pki.service.write(dir, "service")?),
        })
    }

    /// The broker as it is shipped, with the certificates that cloud-ingest makes; cloud-ingest is on the same machine.
    pub(super) async fn for_enrolled(dir: &Path) -> anyhow::Result<Lines> {
        let (keys, files) = (dir.join("keys"), dir.join(FILES));
        std::fs::create_dir_all(&files)?;
        let (keys, files) = (keys.display().to_string(), files.display().to_string());
        run("cloud-ingest", &["ca", "init", "--dir", &keys])?;
        run("cloud-ingest", &["ca", "issue-server", "--dir", &keys, "--ip", "127.0.0.1", "--out", &files])?;
        let broker = ShippedBroker::start_with_files(dir, &[]).await?;
        Ok(Lines {
            for_controllers: broker.controllers,
            for_cloud: broker.service,
            broker: broker.process,
            controllers_scheme: "mqtts",
            clouds_scheme: "mqtt",
            controllers_files: String::new(),
            clouds_files: String::new(),
        })
    }
}
