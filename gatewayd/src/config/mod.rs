//! Configuration: files as written ([`fragment`]) are merged in the order of [`sources`] and
//! become checked [`Settings`].
//!
//! ```text
//! /usr/lib/gatewayd/  <  /etc/gatewayd/  <  /run/gatewayd/
//!     gatewayd.toml                 the file of the highest folder that has one
//!     gatewayd.toml.d/*.toml        sorted by name; same name: highest folder; later wins
//! ```
//!
//! Every error names file, line and column. It must not know what the settings are used for, and
//! reads no environment.

mod error;
mod fragment;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use fragment::check_text;
pub use settings::{Bus, LogLevel, Lora, Origin, Peers, Region, Serial, Settings, ShownSetting};
pub use sources::Sources;

/// Reads and checks the configuration.
///
/// # Errors
/// The first thing that is wrong: an unreadable file, or a key or value, with file and line.
pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    Settings::from_layers(&layers(sources)?)
}

/// Every setting in force with the place it comes from, in the order of the defaults file.
///
/// # Errors
/// As [`load`].
pub fn show(sources: &Sources) -> Result<Vec<ShownSetting>, ConfigError> {
    let layers = layers(sources)?;
    let settings = Settings::from_layers(&layers)?;
    Ok(settings.shown(&layers))
}

fn layers(sources: &Sources) -> Result<Vec<fragment::Layer>, ConfigError> {
    sources.files()?.iter().map(|file| fragment::Layer::read(file)).collect()
}
