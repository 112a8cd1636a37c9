//! Starts and stops real servers and our own programs for tests, the demo and benchmarks; it knows no product code.
//!
//! Every child hangs on a tether: it is killed when its handle is dropped, and by the kernel when the **thread**
//! that started it ends. Start children from a test's own task or a runtime's worker, never from
//! `spawn_blocking`, whose threads come and go.
//!
//! Logs are appended to `NAME.log` in the directory given, across restarts; an error about a child quotes the
//! end of its log.

mod card_feeder;
mod certificates;
mod fake_clock;
mod mosquitto;
mod notify_socket;
mod pcscd;
mod ports;
mod postgres;
mod program;
mod pty;
mod raw_mqtt;
mod shipped_broker;
mod syscall_fault;
mod tethered;
mod waiting;

pub use card_feeder::CardFeeder;
pub use certificates::{Authority, Identity, client};
pub use fake_clock::{FakeClock, true_utc_ms};
pub use mosquitto::{Mosquitto, MosquittoOptions};
pub use notify_socket::NotifySocket;
pub use pcscd::{Pcscd, VirtualReader};
pub use ports::free_port;
pub use postgres::{Postgres, start_postgres};
pub use program::{Program, Ready, Running, program_path};
pub use pty::PtyPair;
pub use raw_mqtt::{Accepted, Connect, Delivered, Level, Publish, RawMqtt, Refused, Will};
pub use shipped_broker::{Edit, FILES, Pki, SHIPPED, ShippedBroker};
pub use syscall_fault::SyscallFault;
pub use waiting::{wait_for, wait_until};
