//! `gatewayctl identity upgrade`: one guided command, or three steps where the operator key is
//! elsewhere.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::ctl::exit::{Exit, Failure};
use crate::ctl::operator::{self, Signing};
use crate::ctl::output::{Output, text};
use crate::ctl::session::{Session, json};

/// Calls of the command, for the help.
pub(super) const CALLS: &str = "D-Bus: org.gatewayd.Gateway1.Attestation.PrepareUpgrade, \
     org.gatewayd.Gateway1.Manager.PrepareOperatorAct, SubmitOperatorAct";

/// Longest wait for the gateway to open with the new TPM.
const OPENING: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(250);

/// Where to.
#[derive(Args)]
pub(in crate::ctl) struct Arguments {
    /// Address of the hardware TPM, as in tpm.tcti of the configuration
    #[arg(long, value_name = "TCTI", default_value = "device:/dev/tpmrm0")]
    tpm: String,
    /// Why, in a sentence; recorded for ever
    #[arg(long, default_value = "moved to a hardware TPM")]
    reason: String,
    #[command(flatten)]
    signing: Signing,
}

pub(super) async fn run(
    arguments: Arguments,
    session: &Session,
    output: &mut Output,
) -> Result<(), Failure> {
    let Arguments { tpm, reason, signing } = arguments;
    let mut settings = Vec::new();
    if !signing.applies() {
        output.line(&format!("1 of 4: making keys in the TPM at {tpm}"))?;
        let attestation = session.client.attestation().await?;
        let prepared = json(attestation.prepare_upgrade(tpm).await)?;
        describe(&prepared, output)?;
        settings.push(("node".to_owned(), text(&prepared, "gateway")));
        settings.push(("reason".to_owned(), reason));
        output.line("2 of 4: the operator's act")?;
    }
    let before = text(&status(session).await?, "gateway");
    operator::perform("upgrade", &settings, &signing, session, output).await?;
    if signing.requests() {
        return Ok(());
    }
    output.line("3 of 4: that is on the record; the old identity is retired")?;
    let now = opened(&before, session).await?;
    output.line(&format!(
        "4 of 4: this gateway is {} now, {}; {}",
        text(&now, "gateway"),
        text(&now, "attestation"),
        text(&now, "tpm")
    ))?;
    advise(&now, output)
}

/// What was made, and what there is to know about that TPM.
fn describe(prepared: &Value, output: &mut Output) -> Result<(), Failure> {
    output.list(&[
        ("TPM", text(prepared, "tpm")),
        ("EK digest", text(prepared, "ek_digest")),
        ("Gateway", text(prepared, "gateway")),
        ("In place of", text(prepared, "replaces")),
    ])?;
    if prepared["ek_certificate"] != true {
        output.line(
            "No vendor vouches for this TPM: there is no EK certificate in it, and a second \
             gateway will not be able to attest it",
        )?;
    }
    if prepared["software"] == true {
        output.line("IT IS A SOFTWARE TPM, which the policy of this site takes for a chip")?;
    }
    Ok(())
}

/// Waits until the gateway runs under another identity than before.
async fn opened(before: &str, session: &Session) -> Result<Value, Failure> {
    let deadline = Instant::now() + OPENING;
    loop {
        let now = status(session).await?;
        if now["state"] == "running" && text(&now, "gateway") != before {
            return Ok(now);
        }
        if Instant::now() > deadline {
            let reasons: Vec<&str> =
                now["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let what = "the move is recorded, and the gateway has not opened with its new TPM yet";
            let failure = Failure::new(Exit::Timeout, format!("{what}: {}", reasons.join("; ")));
            return Err(failure.advise("it goes on trying by itself: `gatewayctl status`"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn status(session: &Session) -> Result<Value, Failure> {
    json(session.client.manager().await?.status().await)
}

fn advise(now: &Value, output: &mut Output) -> Result<(), Failure> {
    let warnings = now["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for warning in warnings.filter(|warning| warning.contains("set tpm.tcti")) {
        output.line(&format!("To do: {warning}"))?;
        output.line(
            "  (a packaged software TPM: `systemctl disable --now gatewayd-software-tpm.service`)",
        )?;
    }
    Ok(output.line(
        "The next gateway that is admitted attests this one. Print a new site card: `gatewayctl \
         site card`",
    )?)
}
