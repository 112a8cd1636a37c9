//! Step 4 of 12, PC/SC: carries lamp commands to a reader. Knows no signal; which command does what is `lamp`'s business.
//!
//! With a card on the reader a command goes where the card's commands go, and the reader keeps it to itself. Without
//! one it goes to the reader by `SCardControl`, which libccid refuses unless it was configured to let it through.
//! The context is the lamp's own: nothing here waits for the card's, and nothing there for this.

use std::ffi::CStr;

use pcsc::{Card, Context, Disposition, Error, MAX_BUFFER_SIZE, Protocols, Scope, ShareMode, ctl_code};

use super::lamp::Path;
use super::lamp_desk::{Wire, WireError};

/// libccid's IOCTL_SMARTCARD_VENDOR_IFD_EXCHANGE.
const ESCAPE: u32 = 1;

/// A wire through pcscd.
#[derive(Default)]
pub struct PcscWire {
    context: Option<Context>,
}

impl Wire for PcscWire {
    fn send(&mut self, reader: &CStr, path: Path, command: &[u8]) -> Result<Vec<u8>, WireError> {
        let sent = self.context().and_then(|context| match path {
            Path::Card => to_card(context, reader, command),
            Path::Reader => to_reader(context, reader, command),
        });
        sent.map_err(|error| {
            let why = meaning(error);
            if matches!(why, WireError::Failed(_)) {
                // One that outlived pcscd stays dead while it says that it is valid.
                self.context = None;
            }
            why
        })
    }
}

impl PcscWire {
    fn context(&mut self) -> Result<&Context, Error> {
        match &mut self.context {
            Some(context) => Ok(context),
            none => Ok(none.insert(Context::establish(Scope::System)?)),
        }
    }
}

fn to_card(context: &Context, reader: &CStr, command: &[u8]) -> Result<Vec<u8>, Error> {
    let card = connect(context, reader)?;
    let mut buffer = [0; MAX_BUFFER_SIZE];
    let answer = card.transmit(command, &mut buffer).map(<[u8]>::to_vec);
    leave(card);
    answer
}

/// To the card on a reader, whatever pcscd thinks of its ATR.
pub(super) fn connect(context: &Context, reader: &CStr) -> Result<Card, Error> {
    match context.connect(reader, ShareMode::Shared, Protocols::ANY) {
        // pcscd finds no protocol in a malformed ATR. What we say is for the reader, so it needs none.
        Err(Error::ProtoMismatch) => context.connect(reader, ShareMode::Shared, Protocols::RAW),
        connected => connected,
    }
}

/// Leaves the card powered: the crate's default would reset it for others.
pub(super) fn leave(card: Card) {
    // A failure leaves nothing to clean up: the card is gone or pcscd is, and the next call will say which.
    let _ = card.disconnect(Disposition::LeaveCard);
}

fn to_reader(context: &Context, reader: &CStr, command: &[u8]) -> Result<Vec<u8>, Error> {
    let handle = context.connect(reader, ShareMode::Direct, Protocols::UNDEFINED)?;
    let mut buffer = [0; MAX_BUFFER_SIZE];
    let answer = handle.control(ctl_code(ESCAPE.into()), command, &mut buffer).map(<[u8]>::to_vec);
    leave(handle);
    answer
}

fn meaning(error: Error) -> WireError {
    match error {
        Error::NoSmartcard | Error::RemovedCard | Error::UnpoweredCard | Error::UnresponsiveCard => {
            WireError::NoCard
        }
        // libccid says "communication error" when it refuses, which pcscd calls NotTransacted.
        Error::NotTransacted | Error::UnsupportedFeature => WireError::NotAllowed,
        other => WireError::Failed(format!("{other} ({:08X})", other as u32)),
    }
}
