//! `completions` and `man`: what a shell and a reader need to know of the command line, made from it. For packagers.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;
use crate::app::Failure;

/// Print what a shell completes commands and options by.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    shell: Shell,
}

pub(super) fn main(arguments: &Arguments) -> Result<ExitCode, Failure> {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "profiler-daemon", &mut io::stdout());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man() -> Result<ExitCode, Failure> {
    let print = || io::stdout().write_all(&page()?);
    print().map_err(Failure::other("printing the manual page"))?;
    Ok(ExitCode::SUCCESS)
}

/// One page, in which each command has a section.
fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    describe_commands(&command, command.get_name(), &mut page)?;
    man.render_extra_section(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// The commands of `command`, which is called `name`, and theirs.
fn describe_commands(command: &Command, name: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let is_told = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in command.get_subcommands().filter(is_told) {
        let name = format!("{name} {}", command.get_name());
        writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
        let man = Man::new(command.clone());
        let mut sections = Vec::new();
        man.render_synopsis_section(&mut sections)?;
        man.render_description_section(&mut sections)?;
        man.render_options_section(&mut sections)?;
        if command.get_after_help().is_some() {
            man.render_extra_section(&mut sections)?;
        }
        page.extend_from_slice(String::from_utf8_lossy(&sections).replace(".SH ", ".SS ").as_bytes());
        describe_commands(command, &name, page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_page_has_every_command_with_its_options_and_names_no_other_page() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for words in ["PROFILER-DAEMON RUN", "PROFILER-DAEMON DOCTOR WHY", "PROFILER-DAEMON CONFIG SHOW"] {
            assert!(page.contains(&format!(".SH \"{words}\"\n")), "{words}");
        }
        // A dash is written with a backslash before it.
        for option in ["memory\\-max", "token\\-file", "tls\\-cert", "patience"] {
            assert!(page.contains(option), "{option}");
        }
        assert!(!page.contains("(1)"), "a page that is not there is named");
        assert!(!page.contains("BENCH"), "what is hidden is told");
    }
}
