//! The command line: what each subcommand is called and takes.

mod explain;
mod keys;
mod transfer;
mod users;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::server::{self, StartError};

/// Reverse-proxy auth gateway: login, refresh, verified identity headers, TOML routes.
#[derive(Parser)]
#[command(name = "portcullis", version, about, subcommand_required = false)]
struct Cli {
    /// The configuration file
    #[arg(
        short,
        long,
        global = true,
        env = "PORTCULLIS_CONFIG",
        default_value = "gateway.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Run,
    /// Load and cross-check the configuration and print every problem
    Check,
    /// Say which route answers a request, and why it is allowed or refused
    Explain(explain::Explain),
    /// Manage accounts
    #[command(subcommand)]
    User(users::UserCommand),
    /// Manage signing keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Look into access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the JSON Schema of the configuration file
    Schema,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Decode and verify a token; `-` reads it from standard input
    Inspect(Inspect),
}

#[derive(Args)]
struct Inspect {
    token: String,
}

/// Runs the command the process was started with.
///
/// # Errors
/// What kept the command from doing its work, for the caller to print once.
pub fn run() -> Result<ExitCode, StartError> {
    let cli = Cli::parse();
    // Two are compiled in, for pingora and for reqwest, so rustls has to be told which one a store's connection uses; this is pingora's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = cli.config;
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => with_config(&file, |config| {
            log_to_stderr(&config.log.level);
            server::run(config).map(|()| ExitCode::SUCCESS)
        }),
        Command::Check => with_config(&file, |config| {
            println!(
                "{}: no problems ({} routes, {} upstreams)",
                file.display(),
                config.routes.len(),
                config.upstreams.len()
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Explain(explain) => with_config(&file, |config| explain.run(config)),
        Command::User(command) => with_config(&file, |config| command.run(config)),
        Command::Keys(command) => with_config(&file, |config| command.run(config)),
        Command::Token(TokenCommand::Inspect(inspect)) => {
            with_config(&file, |config| keys::inspect(config, &inspect.token))
        }
        Command::Schema => {
            println!("{}", config::schema());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Loads `file`, printing its warnings, or all its problems.
fn with_config(
    file: &Path,
    act: impl FnOnce(&Config) -> Result<ExitCode, StartError>,
) -> Result<ExitCode, StartError> {
    match Config::load(file) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                eprintln!("{}", loaded.warnings);
            }
            act(&loaded.config)
        }
        Err(problems) => {
            eprintln!("{problems}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Operational log: JSON lines on standard error; the access log has standard output to itself.
fn log_to_stderr(level: &str) {
    // The libraries' own chatter only when it is asked for by name.
    let directives = match level.contains(['=', ',']) {
        true => level.to_owned(),
        false => format!("warn,portcullis={level}"),
    };
    // The SDK of S3 shows what it found where it looked for credentials; what matters of it we log ourselves.
    let directives = format!("{directives},aws_=off");
    let filter = tracing_subscriber::EnvFilter::try_new(directives).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// A runtime for commands that talk to the stores.
fn block_on<T>(future: impl Future<Output = Result<T, StartError>>) -> Result<T, StartError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// `text`, or all of standard input when it is `-`.
fn argument_or_stdin(text: &str) -> Result<String, StartError> {
    match text {
        "-" => Ok(std::io::read_to_string(std::io::stdin())?.trim().to_owned()),
        given => Ok(given.trim().to_owned()),
    }
}
