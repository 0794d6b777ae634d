//! `portcullis user export` and `user import`: accounts as JSON lines, out of the store and into it. Sessions are
//! not carried.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::users::Accounts;
use crate::clock::Timestamp;
use crate::config::UserStore;
use crate::import::{LineProblem, UserImport, export_line};
use crate::passwords::hash_now;
use crate::server::StartError;
use crate::store::CreateError;
use crate::store::settings::IdType;

/// Accounts asked for at a time.
const PAGE: usize = 500;

/// What became of a line.
enum Outcome {
    Imported,
    /// By an import before this one.
    AlreadyThere,
    /// Somebody else has the address or the id.
    Taken(CreateError),
}

impl Accounts<'_> {
    /// Every account, in order of id, to `file`, which must not exist, or to standard output.
    pub(super) async fn export(&self, file: &Path) -> Result<ExitCode, StartError> {
        if file == Path::new("-") {
            let mut out = BufWriter::new(io::stdout().lock());
            let count = self.write_accounts(&mut out).await?;
            eprintln!("{count} exported, with their password hashes");
            return Ok(ExitCode::SUCCESS);
        }
        let named = |e: io::Error| format!("{}: {e}", file.display());
        let mut unfinished = Unfinished::beside(file).map_err(named)?;
        let count = tokio::select! {
            written = self.write_accounts(&mut unfinished.out) => written?,
            _ = tokio::signal::ctrl_c() => return Err("interrupted: nothing is written".into()),
        };
        unfinished.finish(file).map_err(named)?;
        eprintln!(
            "{count} exported to {}, with their password hashes: let nobody else read it",
            file.display()
        );
        Ok(ExitCode::SUCCESS)
    }

    /// How many there were.
    async fn write_accounts(&self, out: &mut impl Write) -> Result<usize, StartError> {
        let mut count = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.stores.users.list(after.as_deref(), PAGE).await?;
            for user in &page {
                writeln!(out, "{}", export_line(user))?;
            }
            count += page.len();
            match page.last() {
                Some(last) => after = Some(last.id.clone()),
                None => break,
            }
        }
        out.flush()?;
        Ok(count)
    }

    /// Reads everything, checks everything, and only then creates: a file with a mistake changes nothing. One that
    /// was interrupted is repeated: what it made already is passed over.
    pub(super) async fn import(&self, file: &Path) -> Result<ExitCode, StartError> {
        let text = match file.to_str() {
            Some("-") => io::read_to_string(io::stdin())?,
            _ => fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?,
        };
        let records = UserImport::parse_lines(&text, self.config.passwords.min_length)
            .and_then(|records| self.fitting(records));
        let records = match records {
            Ok(records) => records,
            Err(problems) => {
                for problem in &problems {
                    eprintln!("{}: {problem}", file.display());
                }
                return Err(format!("nothing imported: {} lines are wrong", problems.len()).into());
            }
        };
        let (mut imported, mut there, mut skipped) = (0, 0, 0);
        for record in records {
            let line = record.line;
            match self.import_one(record).await {
                Ok(Outcome::Imported) => imported += 1,
                Ok(Outcome::AlreadyThere) => there += 1,
                Ok(Outcome::Taken(e)) => {
                    eprintln!("{}:{line}: skipped: {e}", file.display());
                    skipped += 1;
                }
                Err(e) => {
                    let so_far = format!("{imported} imported, {there} already there, {skipped} skipped");
                    return Err(format!(
                        "line {line}: {e}; {so_far} before it: repeat the import for the rest"
                    )
                    .into());
                }
            }
        }
        println!("{imported} imported, {there} already there, {skipped} skipped");
        Ok(if skipped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn import_one(&self, record: UserImport) -> Result<Outcome, StartError> {
        let users = &self.stores.users;
        // Looked for first, so that a repeated import need not hash the passwords again.
        match users.by_email(&record.email).await? {
            Some(user) if record.became(&user) => return Ok(Outcome::AlreadyThere),
            Some(_) => return Ok(Outcome::Taken(CreateError::AddressTaken)),
            None => {}
        }
        let cost = self.config.passwords.cost;
        let user =
            record.into_user(Timestamp::now(), || users.new_id(), |password| hash_now(password, cost))?;
        match users.create(user).await {
            Ok(()) => Ok(Outcome::Imported),
            Err(CreateError::Unavailable(e)) => Err(e.into()),
            Err(taken) => Ok(Outcome::Taken(taken)),
        }
    }

    /// The records, when the store can keep the ids they name.
    fn fitting(&self, records: Vec<UserImport>) -> Result<Vec<UserImport>, Vec<LineProblem>> {
        let UserStore::MongoDb(settings) = &self.config.users else { return Ok(records) };
        if settings.id == IdType::String {
            return Ok(records);
        }
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let object_id = |id: &String| id.len() == 24 && id.bytes().all(digit);
        let unfit = records.iter().filter(|record| !record.id.as_ref().is_none_or(object_id));
        let problem = "`id` is not an ObjectId, 24 of 0-9 and a-f; keep it with users.mongodb.id = \"string\", \
                       or leave it out, and the account gets another";
        let problems: Vec<LineProblem> =
            unfit.map(|record| LineProblem { line: record.line, problem: problem.to_owned() }).collect();
        if problems.is_empty() { Ok(records) } else { Err(problems) }
    }
}

/// A file with mode 0600 beside the one to be, and gone unless it is finished.
struct Unfinished {
    path: PathBuf,
    out: BufWriter<File>,
}

impl Unfinished {
    fn beside(path: &Path) -> io::Result<Self> {
        // Said before the work is done; `finish` does not rely on it.
        if path.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
        let path = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, out: BufWriter::new(file) })
    }

    /// Gives it the name `path`, in one step, unless there is such a file.
    fn finish(self, path: &Path) -> io::Result<()> {
        self.out.get_ref().sync_all()?;
        fs::hard_link(&self.path, path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
