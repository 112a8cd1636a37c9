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
        Ok(Lines {
            for_controllers: broker.controllers,
            for_cloud: broker.service_tls,
            broker: broker.process,
            scheme: "mqtts",
            controllers_files: tls_files(&root, pki.root.controller(CONTROLLER)?.write(dir, "controller")?),
            clouds_files: tls_files(&root, pki.service.write(dir, "cloud-ingest")?),
        })
    }

    /// The broker as it is shipped, with the certificates that cloud-ingest makes, as if they were on two machines.
    pub(super) async fn for_enrolled(dir: &Path) -> anyhow::Result<Lines> {
        let (keys, files, own) = (dir.join("keys"), dir.join(FILES), dir.join("service"));
        std::fs::create_dir_all(&files)?;
        let [keys, out, own_out] = [&keys, &files, &own].map(|path| path.display().to_string());
        run("cloud-ingest", &["ca", "init", "--dir", &keys])?;
        run("cloud-ingest", &["ca", "issue-server", "--dir", &keys, "--ip", "127.0.0.1", "--out", &out])?;
        run("cloud-ingest", &["ca", "issue-service", "--dir", &keys, "--out", &own_out])?;
        std::fs::copy(own.join("client.pem"), files.join("service.pem"))?;
        let broker = ShippedBroker::start_with_files(dir, &[]).await?;
        let (certificate, key) = (own.join("client.pem"), own.join("client.key"));
        Ok(Lines {
            for_controllers: broker.controllers,
            for_cloud: broker.service_tls,
            broker: broker.process,
            scheme: "mqtts",
            controllers_files: String::new(),
            clouds_files: tls_files(&own.join("ca.pem"), (certificate, key)),
        })
    }
}

/// What a configuration says of its certificates.
fn tls_files(root: &Path, (certificate, key): (PathBuf, PathBuf)) -> String {
    let lines = [("ca_file", root), ("cert_file", &certificate), ("key_file", &key)];
    lines.map(|(name, file)| format!("{name} = \"{}\"\n", file.display())).concat()
}
