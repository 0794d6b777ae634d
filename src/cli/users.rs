//! `portcullis user ...`. The gateway may be running: it hears of what ends sessions within a second.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::block_on;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::passwords::{check_new, hash_now};
use crate::server::{self, StartError, Stores};
use crate::store::{Email, SessionsCut, User, UserChange, is_display_name, is_role};

#[derive(Subcommand)]
pub enum UserCommand {
    /// Create an account; the password is asked for, or read from standard input
    Add(Add),
    /// List accounts
    List,
    /// Show one account and its sessions
    Show { user: String },
    /// Refuse logins and end every session at once
    Disable { user: String },
    /// Allow logins again, and forget failed ones
    Enable { user: String },
    /// Set a password (asked for, or from standard input), end every session, forget failed logins
    SetPassword { user: String },
    /// Replace the roles; access tokens already issued keep theirs until they expire or are refreshed
    SetRoles {
        user: String,
        /// Comma-separated; empty for none
        roles: String,
    },
    /// Delete an account and end every session
    Delete { user: String },
    /// Write all accounts as JSON lines, for `import`; they hold the password hashes: let nobody else read them
    Export {
        /// A new file, readable by its owner only; `-` for standard output
        #[arg(long, default_value = "-")]
        file: PathBuf,
    },
    /// Create accounts from JSON lines; those made by an earlier import of the same lines are passed over
    Import {
        /// `-` for standard input
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct Add {
    email: String,
    #[arg(long)]
    name: Option<String>,
    /// Comma-separated
    #[arg(long, default_value = "")]
    roles: String,
    /// Comma-separated
    #[arg(long, default_value = "")]
    scopes: String,
}

impl UserCommand {
    pub fn run(self, config: &Config) -> Result<ExitCode, StartError> {
        block_on(async {
            let stores = Stores::open(config, Arc::new(())).await?;
            let accounts = Accounts { stores, config };
            match self {
                Self::Add(add) => accounts.add(add).await,
                Self::List => accounts.list().await,
                Self::Show { user } => accounts.show(&user).await,
                Self::Disable { user } => accounts.disable(&user).await,
                Self::Enable { user } => accounts.enable(&user).await,
                Self::SetPassword { user } => accounts.set_password(&user).await,
                Self::SetRoles { user, roles } => accounts.set_roles(&user, &roles).await,
                Self::Delete { user } => accounts.delete(&user).await,
                Self::Export { file } => accounts.export(&file).await,
                Self::Import { file } => accounts.import(&file).await,
            }
        })
    }
}

pub(super) struct Accounts<'a> {
    pub(super) stores: Stores,
    pub(super) config: &'a Config,
}

impl Accounts<'_> {
    async fn add(&self, add: Add) -> Result<ExitCode, StartError> {
        let email =
            Email::parse(&add.email).ok_or_else(|| format!("{:?} is not an e-mail address", add.email))?;
        if !add.name.as_deref().is_none_or(is_display_name) {
            return Err("--name is longer than 200 characters or has a control character".into());
        }
        let (roles, scopes) = (split(&add.roles)?, split(&add.scopes)?);
        let password = read_password()?;
        let user = User {
            id: self.stores.users.new_id(),
            password_hash: self.hash(&password, &email)?,
            email,
            name: add.name,
            roles,
            scopes,
            disabled: false,
            created_at: Timestamp::now(),
            sessions_cut: None,
        };
        match self.stores.users.create(user.clone()).await {
            Ok(()) => {
                println!("{}  {}", user.id, user.email.as_str());
                Ok(ExitCode::SUCCESS)
            }
            Err(e) => Err(format!("{}: {e}", user.email.as_str()).into()),
        }
    }

    async fn list(&self) -> Result<ExitCode, StartError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.stores.users.list(after.as_deref(), 500).await?;
            for user in &page {
                let state = if user.disabled { "disabled" } else { "enabled" };
                println!("{}  {}  {state}  {}", user.id, user.email.as_str(), user.roles.join(","));
            }
            match page.last() {
                Some(last) => after = Some(last.id.clone()),
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    async fn show(&self, who: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        println!("id        {}", user.id);
        println!("email     {}", user.email.as_str());
        println!("name      {}", user.name.as_deref().unwrap_or("-").escape_debug());
        println!("roles     {}", user.roles.join(","));
        println!("scopes    {}", user.scopes.join(","));
        println!("state     {}", if user.disabled { "disabled" } else { "enabled" });
        println!("created   {}", user.created_at);
        for family in self.stores.sessions.list(&user.id, Timestamp::now()).await? {
            println!(
                "session   {}  began {}  last used {} from {}  {}",
                family.id,
                family.began,
                family.rotated_at,
                family.address,
                family.device.escape_debug(),
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn disable(&self, who: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        let change = UserChange { disabled: Some(true), ..UserChange::default() };
        self.change_and_end_sessions(&user, change, "is disabled").await?;
        println!("{} is disabled; its sessions have ended", user.email.as_str());
        Ok(ExitCode::SUCCESS)
    }

    async fn enable(&self, who: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        let change = UserChange { disabled: Some(false), ..UserChange::default() };
        self.change(&user, change).await?;
        self.forgive(&user, "is enabled").await?;
        println!("{} is enabled", user.email.as_str());
        Ok(ExitCode::SUCCESS)
    }

    async fn set_password(&self, who: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        let hash = self.hash(&read_password()?, &user.email)?;
        let change = UserChange { password_hash: Some(hash), ..UserChange::default() };
        self.change_and_end_sessions(&user, change, "has a new password").await?;
        self.forgive(&user, "has a new password and its sessions have ended").await?;
        println!("{} has a new password; its sessions have ended", user.email.as_str());
        Ok(ExitCode::SUCCESS)
    }

    async fn set_roles(&self, who: &str, roles: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        let roles = split(roles)?;
        self.change(&user, UserChange { roles: Some(roles.clone()), ..UserChange::default() }).await?;
        println!("{} has the roles: {}", user.email.as_str(), roles.join(","));
        Ok(ExitCode::SUCCESS)
    }

    async fn delete(&self, who: &str) -> Result<ExitCode, StartError> {
        let user = self.find(who).await?;
        // Disabled first: no session can begin while the others end.
        let change = UserChange { disabled: Some(true), ..UserChange::default() };
        self.change_and_end_sessions(&user, change, "is disabled but not deleted").await?;
        self.stores.users.delete(&user.id).await.map_err(|e| {
            let email = user.email.as_str();
            format!("{email} is disabled, its sessions have ended, but whether it is deleted is unknown: {e}; repeat the command")
        })?;
        println!("{} is deleted; its sessions have ended", user.email.as_str());
        Ok(ExitCode::SUCCESS)
    }

    /// `done` is what can be said of the user once the change is made.
    async fn change_and_end_sessions(
        &self,
        user: &User,
        change: UserChange,
        done: &str,
    ) -> Result<(), StartError> {
        // The clock that sessions go by is known once the store has been heard.
        self.stores.catch_up(server::CATCH_UP).await;
        let sessions = &self.stores.sessions;
        let cut = || SessionsCut { at: sessions.clock(Timestamp::now()), keep: None };
        let sessions_cut = Some(cut());
        self.change(user, UserChange { sessions_cut, ..change }).await?;
        // Until the change was committed somebody may have logged in as before: hence a second, later cut.
        let policy = server::refresh_policy(self.config);
        sessions.end_all(&user.id, cut(), policy).await.map_err(|e| {
            let email = user.email.as_str();
            format!(
                "{email} {done} and its sessions cannot be refreshed, but its access tokens may be accepted until \
                 they expire: {e}; repeat the command"
            )
            .into()
        })
    }

    async fn change(&self, user: &User, change: UserChange) -> Result<(), StartError> {
        let email = user.email.as_str();
        match self.stores.users.update(&user.id, change).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("{email} was deleted meanwhile").into()),
            // The store may have done it and failed to say so.
            Err(e) => Err(format!("whether {email} was changed is unknown: {e}; repeat the command").into()),
        }
    }

    async fn forgive(&self, user: &User, done: &str) -> Result<(), StartError> {
        let email = user.email.as_str();
        self.stores.throttle.forgive(email).await.map_err(|e| {
            format!("{email} {done}, but its failed logins are not forgotten: {e}; repeat the command").into()
        })
    }

    /// By id or by address.
    async fn find(&self, who: &str) -> Result<User, StartError> {
        let user = match Email::parse(who) {
            Some(email) => self.stores.users.by_email(&email).await?,
            None => self.stores.users.by_id(who).await?,
        };
        user.ok_or_else(|| format!("no user {who:?}; `portcullis user list` shows them all").into())
    }

    fn hash(&self, password: &str, email: &Email) -> Result<String, StartError> {
        check_new(password, email, self.config.passwords.min_length).map_err(|e| e.to_string())?;
        Ok(hash_now(password.as_bytes(), self.config.passwords.cost)?)
    }
}

fn read_password() -> Result<String, StartError> {
    if std::io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Again: ")? != first {
            return Err("the two passwords differ".into());
        }
        return Ok(first);
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    Ok(password.strip_suffix('\r').unwrap_or(password).to_owned())
}

/// A comma-separated list of roles or scopes.
fn split(list: &str) -> Result<Vec<String>, StartError> {
    let names: Vec<String> =
        list.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    match names.iter().find(|name| !is_role(name)) {
        Some(wrong) => {
            Err(format!("{wrong:?} has a space or a control character: write names without").into())
        }
        None => Ok(names),
    }
}
