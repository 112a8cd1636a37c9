//! The broker as we ship it, on the real Mosquitto: who gets in, who may say and hear what, what it keeps, and how a
//! session is ended. Judged by what is delivered, never by what the broker answers: it answers a denied publish or
//! subscription like a granted one.

mod credentials;
mod identity;
mod limits;
mod matrix;
mod reload;
mod usher;

use tempfile::TempDir;
use testbench::rig::{Connect, Edit, Identity, Pki, RawMqtt, ShippedBroker};

/// A broker as shipped, with everything that its configuration names.
struct Rig {
    pki: Pki,
    broker: ShippedBroker,
    dir: TempDir,
}

impl Rig {
    async fn start() -> Rig {
        Rig::with_planted(&[]).await
    }

    async fn with_planted(edits: &[Edit]) -> Rig {
        let (pki, dir) = (Pki::new().unwrap(), tempfile::tempdir().unwrap());
        let broker = ShippedBroker::start(dir.path(), &pki, edits).await.unwrap();
        Rig { pki, broker, dir }
    }

    /// A controller in a clean session.
    async fn controller(&self, id: &str) -> RawMqtt {
        let identity = self.pki.root.controller(id).unwrap();
        self.session(&identity, Connect::clean(id)).await
    }

    /// A session on the controllers' listener with this certificate.
    async fn session(&self, identity: &Identity, connect: Connect<'_>) -> RawMqtt {
        let mut client = self.line(identity).await;
        client.connect(connect).await.unwrap();
        client
    }

    /// A connection to the controllers' listener with this certificate.
    async fn line(&self, identity: &Identity) -> RawMqtt {
        RawMqtt::tls(self.broker.controllers, identity.trusting(&self.pki.root).unwrap()).await.unwrap()
    }

    /// One who may do everything.
    async fn observer(&self, client_id: &str) -> RawMqtt {
        let mut client = RawMqtt::tcp(self.broker.observer).await.unwrap();
        client.connect(Connect::clean(client_id)).await.unwrap();
        client
    }
}
