//! The broker of a site, and how both sides reach it: in clear, or as it is shipped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::CONTROLLER;
use crate::rig::{Authority, Mosquitto, MosquittoOptions, Pki, ShippedBroker};

/// A broker, and how both sides reach it.
pub(super) struct Lines {
    pub(super) broker: Mosquitto,
    pub(super) for_controllers: SocketAddr,
    pub(super) for_cloud: SocketAddr,
    pub(super) scheme: &'static str,
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
            scheme: "mqtt",
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
            scheme: "mqtts",
            controllers_files: files(pki.root.controller(CONTROLLER)?.write(dir, "controller")?),
            clouds_files: files(pki.service.write(dir, "service")?),
        })
    }
}
