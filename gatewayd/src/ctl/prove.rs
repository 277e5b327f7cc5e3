//! `gatewayctl prove`.

use std::path::PathBuf;

use clap::Args;

use super::exit::Failure;
use super::output::Output;
use super::reading::write_proof;
use super::session::Session;

/// Whose proof.
#[derive(Args)]
#[command(after_help = "D-Bus: org.gatewayd.Gateway1.Ledger.Prove")]
pub(super) struct Arguments {
    /// ID of a gateway (`gw1…`) or sensor (`ln1…`)
    id: String,
    /// File for the proof; `-` is standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) async fn run(
    arguments: Arguments,
    session: Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let proof = session.client.ledger().await?.prove(arguments.id).await?;
    write_proof(&arguments.out, &proof, output)
}
