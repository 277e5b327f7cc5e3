//! What members say, on its way to the ledger's thread.

use tokio::sync::mpsc;

use super::PeerEvent;

/// The transport's end.
#[derive(Clone)]
pub struct InboxSender(#[expect(dead_code)] mpsc::Sender<PeerEvent>);

/// The ledger's end.
pub struct Inbox(mpsc::Receiver<PeerEvent>);

/// Both ends.
pub fn inbox() -> (InboxSender, Inbox) {
    let (sender, receiver) = mpsc::channel(1);
    (InboxSender(sender), Inbox(receiver))
}

impl Inbox {
    /// The next event; none when the transport has ended. May be dropped half-way.
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        self.0.recv().await
    }
}
