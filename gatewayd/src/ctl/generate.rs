//! Completions and man pages, for packages.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::exit::Failure;
use super::output::Output;

/// Which completions.
#[derive(Args)]
pub(super) struct CompletionsArguments {
    /// Shell
    shell: Shell,
}

/// Where the man pages go.
#[derive(Args)]
pub(super) struct ManArguments {
    /// Folder; made if it is missing
    folder: PathBuf,
}

pub(super) fn completions(
    arguments: &CompletionsArguments,
    mut command: clap::Command,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "gatewayctl", &mut script);
    Ok(output.bytes(&script)?)
}

pub(super) fn man(arguments: &ManArguments, command: clap::Command) -> Result<(), Failure> {
    let folder = &arguments.folder;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| Failure::file(folder, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_shell_has_completions() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            let mut command = super::super::Cli::command();
            clap_complete::generate(*shell, &mut command, "gatewayctl", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("sensor") && script.contains("timeout"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_page_that_names_exit_codes_or_its_call() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let arguments = ManArguments { folder: folder.path().join("man1") };
        man(&arguments, super::super::Cli::command()).expect("written");
        let page =
            |name: &str| std::fs::read_to_string(arguments.folder.join(name)).expect("a page");
        assert!(page("gatewayctl.1").contains("verification failed"));
        assert!(page("gatewayctl-status.1").contains("Manager.Status"));
        assert!(page("gatewayctl-sensor-history.1").contains("Sensor.History"));
        assert!(page("gatewayctl-gateway-join.1").contains("Manager.Join"));
        assert!(page("gatewayctl-site-policy-anchor-add.1").contains("SubmitOperatorAct"));
        let hidden = arguments.folder.join("gatewayctl-man.1").exists();
        assert!(!hidden, "hidden commands have no page");
    }
}
