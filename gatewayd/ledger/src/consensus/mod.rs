//! Agreement on one block at a time: the engine and its log behind our own forms.
//!
//! [`message`] is what travels, [`record`] what is logged, [`wal`] keeps it on disk, `driver` runs
//! the engine for one height, `context` and `convert` translate types. Nothing outside of this
//! folder may name the engine; nothing in it knows bodies, state or the store.

mod context;
mod convert;
pub(crate) mod driver;
pub mod message;
pub mod record;
pub mod wal;

pub use driver::DriverError;
