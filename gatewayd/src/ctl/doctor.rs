//! `gatewayctl doctor`.

use serde_json::Value;

use super::exit::{Exit, Failure};
use super::output::{Output, text};
use super::session::{Session, json_list};

pub(super) async fn run(session: Session, output: &mut Output) -> Result<(), Failure> {
    let checks = json_list(session.client.manager().await?.doctor().await)?;
    output.value(&Value::Array(checks.clone()))?;
    print(&checks, output)?;
    let failed = checks.iter().filter(|check| check["result"] == "failed").count();
    match failed {
        0 => Ok(()),
        failed => Err(Failure::new(Exit::Failed, format!("{failed} check(s) failed"))),
    }
}

/// Prints checks, each with its remedy below it.
pub(super) fn print(checks: &[Value], output: &mut Output) -> Result<(), Failure> {
    for check in checks {
        let mark = match check["result"].as_str() {
            Some("ok") => "ok     ",
            Some("warning") => "warning",
            _ => "FAILED ",
        };
        output.line(&format!("{mark}  {}: {}", text(check, "check"), text(check, "detail")))?;
        let fix = text(check, "fix");
        if !fix.is_empty() {
            output.line(&format!("         {fix}"))?;
        }
    }
    Ok(())
}
