//! Keys of this gateway as management changes them.

use super::{CommittedInfo, Control, Result};
use crate::identity::Folder;
use crate::site::Request;
use crate::vote_keys;

impl Control {
    /// Gives this gateway a new vote key; returns when the record names it and the old one is
    /// destroyed.
    ///
    /// # Errors
    /// No site runs, no vote key now, the TPM does not sign, no block in time.
    pub async fn rotate_vote_key(&self) -> Result<CommittedInfo> {
        let parts = self.parts()?;
        let folder = Folder::at(&self.settings.data_dir)?;
        let done = vote_keys::rotate(&parts, &self.tpm, folder).await?;
        // A daemon that is stopping starts anew by itself.
        let _ = self.site.send(Request::Restart).await;
        Ok(done.info("this gateway has a new vote key; the old one is destroyed".into()))
    }
}
