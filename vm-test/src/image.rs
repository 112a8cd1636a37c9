//! Makes the Debian that guests boot, once: a root file system, its kernel and its initrd. Knows mmdebstrap; nothing of
//! Tapline but what a controller has beside it, the broker and the virtual reader.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::host;

/// Where packages go at the end: a controller's disk is larger, and this one is mostly a hole.
const ROOT_BYTES: u64 = 3 << 30;

const SUITE: &str = "bookworm";

/// What is there before anybody installs Tapline: a system that boots, and the programs that it works with.
const PACKAGES: [&str; 17] = [
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "procps",
    "adduser",
    "e2fsprogs",
    "ca-certificates",
    "openssl",
    "initramfs-tools",
    "linux-image-cloud-amd64",
    "mosquitto",
    "pcscd",
    "vsmartcard-vpcd",
    "libpcsclite1",
    "libccid",
    "tzdata",
];

/// Runs with the folder that becomes the root as `$1`.
const CUSTOMIZE: &str = r#"#!/bin/sh
set -eu
cd "$1"
cat >etc/fstab <<'END'
LABEL=root / ext4 errors=remount-ro 0 1
END
cat >etc/systemd/system/tapline-guest.service <<'END'
[Unit]
Description=What the test says is done
DefaultDependencies=no
After=local-fs.target systemd-udevd.service systemd-modules-load.service
[Service]
# A test stops journald: this goes on.
StandardOutput=null
StandardError=null
ExecStartPre=/bin/sh -c 'mkdir -p /run/xfer && until mount -o ro LABEL=xfer /run/xfer; do sleep 0.1; done'
ExecStart=/usr/bin/perl /run/xfer/agent.pl
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
END
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../tapline-guest.service etc/systemd/system/multi-user.target.wants/
# Each test starts its own broker.
rm -f etc/systemd/system/multi-user.target.wants/mosquitto.service
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer e2scrub_reap.service; do
  ln -sf /dev/null etc/systemd/system/$unit
done
echo door >etc/hostname
echo virtio_console >>etc/modules
mkdir -p etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nRateLimitBurst=0\n' >etc/systemd/journald.conf.d/all.conf
# Only what this machine's disks need: an initrd of a tenth of the size unpacks in a tenth of the time.
sed -i 's/^MODULES=.*/MODULES=list/' etc/initramfs-tools/initramfs.conf
printf 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n' >>etc/initramfs-tools/modules
chroot . update-initramfs -u -k all
"#;

/// A Debian to boot.
#[derive(Debug, Clone)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// Where it is or would be, below `work`: another recipe is another folder.
    pub fn at(work: &Path) -> Image {
        let mut hasher = DefaultHasher::new();
        (SUITE, PACKAGES, CUSTOMIZE, ROOT_BYTES).hash(&mut hasher);
        Image { folder: work.join(format!("debian-{:016x}", hasher.finish())) }
    }

    /// Whether it was made before.
    pub fn is_made(&self) -> bool {
        self.root().exists()
    }

    /// Makes it. Takes some minutes, and Debian's mirror.
    ///
    /// # Errors
    ///
    /// When that fails. Nothing half done is left in its place.
    pub fn make(&self) -> anyhow::Result<()> {
        let half = self.folder.with_extension("half");
        let _ = std::fs::remove_dir_all(&half);
        std::fs::create_dir_all(&half).with_context(|| format!("making {}", half.display()))?;
        let tree = half.join("tree");
        let include = format!("--include={}", PACKAGES.join(","));
        let hook = half.join("customize");
        std::fs::write(&hook, CUSTOMIZE)?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        let hook = format!("--customize-hook={}", host::text(&hook));
        host::run("mmdebstrap", &["--variant=minbase", &include, &hook, SUITE, host::text(&tree)])
            .context("making a Debian failed")?;
        for (name, file) in [("vmlinuz", "kernel"), ("initrd.img", "initrd")] {
            std::fs::copy(tree.join(name), half.join(file))
                .with_context(|| format!("/{name} of the image"))?;
        }
        host::make_ext4(&half.join("root.img"), "root", ROOT_BYTES, Some(&tree))?;
        std::fs::remove_dir_all(&tree)?;
        let _ = std::fs::remove_dir_all(&self.folder);
        std::fs::rename(&half, &self.folder)?;
        Ok(())
    }

    /// The file system.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    /// What boots.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// What it boots with.
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }
}
