//! `gatewayctl ledger`.

use clap::Subcommand;
use serde_json::Value;

use super::exit::Failure;
use super::output::{Output, local_time, text};
use super::session::{Session, json};

/// What can be seen of the record.
#[derive(Subcommand)]
pub(super) enum Command {
    /// Newest block
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Ledger.Head")]
    Head,
    /// Block at a height
    #[command(after_help = "D-Bus: org.gatewayd.Gateway1.Ledger.Block")]
    Show {
        /// Height of the block
        height: u64,
    },
}

pub(super) async fn run(
    command: Command,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let ledger = session.client.ledger().await?;
    let block = json(match command {
        Command::Head => ledger.head().await,
        Command::Show { height } => ledger.block(height).await,
    })?;
    output.value(&block)?;
    output.list(&[
        ("Height", text(&block, "height")),
        ("Era", text(&block, "era")),
        ("Time", local_time(&block, "time_ms")),
        ("Hash", text(&block, "hash")),
        ("Parent", text(&block, "parent")),
        ("Proposer", text(&block, "proposer")),
        ("State root", text(&block, "state_root")),
        ("Signed by", format!("{} of {} voters", block["signed"][0], block["signed"][1])),
    ])?;
    let transactions = block["transactions"].as_array().cloned().unwrap_or_default();
    let row = |transaction: &Value| {
        vec![
            text(transaction, "kind"),
            text(transaction, "author"),
            text(transaction, "summary"),
            text(transaction, "hash"),
        ]
    };
    let rows: Vec<Vec<String>> = transactions.iter().map(row).collect();
    Ok(output.table(
        &["KIND", "AUTHOR", "WHAT", "TRANSACTION"],
        &rows,
        "no transactions: a heartbeat block",
    )?)
}
