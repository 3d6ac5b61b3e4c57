//! Imports of people. A file is read line by line while it comes: good lines are kept in the database, of bad ones what is
//! wrong. When all of it is there it is answered, and a job makes people of the lines, a thousand at a time.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kronos_common::{
    event::Event,
    problem::{FieldError, Problem, Result},
};
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Change};
use crate::{
    App,
    attributes::Schema,
    imports::{
        self, Columns, Format, LineProblem, MOST_PROBLEMS, Mode,
        lines::{BadLine, Csv, Line, Plain},
    },
    scim::Document,
    store::{self, imports::Lines},
};

/// How many lines are kept, or become people, at once.
const BATCH: usize = 1_000;
/// How many bytes of people there are in memory at once, about.
const BATCH_BYTES: usize = 1 << 20;

/// A file as it is read.
enum File {
    Csv(Csv, Option<Columns>),
    Jsonl(Plain),
}

/// What has been read and is not kept yet.
struct Receiving<'a> {
    app: &'a App,
    id: Uuid,
    schema: Schema,
    file: File,
    lines: Lines,
    bytes: usize,
}

/// Takes a file, and gives the import's id; a job carries it out.
///
/// # Errors
/// 422 for a bad header of CSV, 400 if the file breaks off; the rest is found in the import.
pub(crate) async fn receive<B: AsRef<[u8]>, E>(
    app: &App,
    actor: Actor<'_>,
    format: Format,
    mode: Mode,
    mut body: impl Stream<Item = std::result::Result<B, E>> + Unpin,
) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let (schema, _) = store::attributes::schema(&app.pool).await?;
    let mode = match mode {
        Mode::AllOrNothing => "allOrNothing",
        Mode::Skip => "skip",
    };
    store::imports::begin(&app.pool, id, mode, &actor.named()).await?;
    let file = match format {
        Format::Csv => File::Csv(Csv::default(), None),
        Format::Jsonl => File::Jsonl(Plain::default()),
    };
    let mut receiving = Receiving { app, id, schema, file, lines: Lines::default(), bytes: 0 };
    let received = async {
        while let Some(chunk) = body.next().await {
            let detail = "the body ended before it was complete";
            let chunk = chunk.map_err(|_| Problem::bad_request("incomplete_body", detail))?;
            receiving.take(chunk.as_ref()).await?;
        }
        receiving.end().await
    };
    if let Err(problem) = received.await {
        let mut connection = app.pool.acquire().await?;
        store::imports::finish(&mut connection, id, "failed", 0).await?;
        return Err(problem);
    }
    store::imports::received(&app.pool, id).await?;
    app.import_waits.notify_one();
    Ok(id)
}

impl Receiving<'_> {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        // Not more at once than what a batch may have.
        for part in bytes.chunks(imports::LONGEST_LINE) {
            match &mut self.file {
                File::Csv(csv, _) => {
                    for line in csv.take(part) {
                        self.cells(line)?;
                    }
                }
                File::Jsonl(plain) => {
                    for line in plain.take(part) {
                        self.json(line)?;
                    }
                }
            }
            self.bytes += part.len();
            if self.bytes >= BATCH_BYTES || self.lines.good.len() + self.lines.problems.len() >= BATCH {
                self.keep().await?;
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        match &mut self.file {
            File::Csv(csv, _) => {
                if let Some(line) = csv.end() {
                    self.cells(line)?;
                }
                if let File::Csv(_, None) = self.file {
                    return Err(Problem::field("", "missing", "a CSV file begins with a line of column names"));
                }
            }
            File::Jsonl(plain) => {
                if let Some(line) = plain.end() {
                    self.json(line)?;
                }
            }
        }
        self.keep().await
    }

    fn cells(&mut self, line: Line<Vec<String>>) -> Result<()> {
        let File::Csv(_, columns) = &mut self.file else { return Ok(()) };
        let cells = match line.content {
            Ok(cells) => cells,
            Err(bad) if columns.is_none() => return Err(Problem::invalid(vec![fault(bad)])),
            Err(bad) => {
                self.refuse(line.number, vec![fault(bad)]);
                return Ok(());
            }
        };
        match columns {
            None => *columns = Some(Columns::read(cells, &self.schema).map_err(Problem::invalid)?),
            Some(columns) => match columns.record(cells, &self.schema) {
                Ok(record) => self.record(line.number, record)?,
                Err(error) => self.refuse(line.number, vec![error]),
            },
        }
        Ok(())
    }

    fn json(&mut self, line: Line<Vec<u8>>) -> Result<()> {
        let read = line.content.map_err(fault).and_then(|line| {
            let text = std::str::from_utf8(&line).map_err(|_| fault(BadLine::NotUtf8))?;
            let malformed = |error: serde_json::Error| {
                FieldError::new("", "malformed_json", format!("a line is one JSON object: {error}"))
            };
            serde_json::from_str::<Document>(text.trim_start_matches('\u{feff}')).map_err(malformed)
        });
        match read {
            Ok(record) => self.record(line.number, record),
            Err(error) => {
                self.refuse(line.number, vec![error]);
                Ok(())
            }
        }
    }

    fn record(&mut self, number: i64, record: Document) -> Result<()> {
        match imports::read(record, &self.schema) {
            Ok(mut person) => {
                let id = Uuid::now_v7();
                let attributes = std::mem::take(&mut person.attributes);
                let kept = self.app.sealer.seal(&self.schema, id, attributes)?;
                self.lines.good.push((number, person, id, kept));
            }
            Err(errors) => self.refuse(number, errors),
        }
        Ok(())
    }

    fn refuse(&mut self, number: i64, errors: Vec<FieldError>) {
        self.lines.refused += 1;
        self.lines.problems.extend(errors.into_iter().map(|error| LineProblem {
            line: number,
            pointer: error.pointer,
            code: error.code.into_owned(),
            detail: error.detail,
        }));
    }

    async fn keep(&mut self) -> Result<()> {
        self.bytes = 0;
        let lines = std::mem::take(&mut self.lines);
        store::imports::keep(&self.app.pool, self.id, &lines).await
    }
}

fn fault(bad: BadLine) -> FieldError {
    match bad {
        BadLine::TooLong => FieldError::new("", "too_long", "a line has at most 65536 bytes"),
        BadLine::NotUtf8 => FieldError::new("", "not_utf8", "a file is UTF-8"),
        BadLine::Quote => {
            FieldError::new("", "bad_quote", "a cell with quotes in it stands in quotes, each of them twice")
        }
    }
}

/// Carries out the next import that waits; gives whether there was one.
pub(crate) async fn carry_out(app: &App) -> Result<bool> {
    let Some(import) = store::imports::claim(&app.pool).await? else { return Ok(false) };
    if import.mode == "skip" {
        skip_refused(app, import).await?;
    } else {
        all_or_nothing(app, import).await?;
    }
    Ok(true)
}

/// Each thousand lines is a transaction, so that whoever goes on later goes on there.
async fn skip_refused(app: &App, mut import: store::imports::Claimed) -> Result<()> {
    loop {
        let mut change = Change::begin(app).await?;
        store::imports::take_time(&mut change).await?;
        let applied = store::imports::apply(&mut change, import.id, import.done_line, BATCH as i64).await?;
        let Some(last) = applied.last_line else {
            store::imports::finish(&mut change, import.id, "done", import.created).await?;
            tell(&mut change, &import).await?;
            return change.commit(app).await;
        };
        import.done_line = last;
        import.created += applied.created;
        import.refused += applied.refused.len() as i64;
        store::imports::note(&mut change, import.id, &applied.refused).await?;
        store::imports::progress(&mut change, import.id, import.created, import.refused, last).await?;
        change.commit(app).await?;
    }
}

/// All lines are one transaction; how far it is, is said beside it.
async fn all_or_nothing(app: &App, mut import: store::imports::Claimed) -> Result<()> {
    let (mut problems, mut done) = (Vec::new(), 0);
    let mut change = Change::begin(app).await?;
    if import.refused == 0 {
        store::imports::take_time(&mut change).await?;
        import.created = 0;
        loop {
            let applied = store::imports::apply(&mut change, import.id, done, BATCH as i64).await?;
            let Some(last) = applied.last_line else { break };
            done = last;
            import.created += applied.created;
            import.refused += applied.refused.len() as i64;
            problems.extend(applied.refused);
            problems.truncate(MOST_PROBLEMS as usize);
            let mut beside = app.pool.acquire().await?;
            store::imports::progress(&mut beside, import.id, import.created, 0, 0).await?;
        }
    }
    if import.refused == 0 {
        store::imports::finish(&mut change, import.id, "done", import.created).await?;
        tell(&mut change, &import).await?;
        return change.commit(app).await;
    }
    drop(change);
    let mut change = Change::begin(app).await?;
    store::imports::note(&mut change, import.id, &problems).await?;
    store::imports::progress(&mut change, import.id, 0, import.refused, done).await?;
    store::imports::finish(&mut change, import.id, "failed", 0).await?;
    change.commit(app).await
}

/// One event, however many people there are: who keeps people asks for them.
async fn tell(change: &mut Change, import: &store::imports::Claimed) -> Result<()> {
    let data = json!({"created": import.created, "refused": import.refused, "by": import.by.0});
    change.tell(&Event::new("kronos.user.imported", import.id.to_string(), data)).await
}

/// Takes away what imports have left behind.
pub(crate) async fn clean(app: &App) -> Result<()> {
    while store::imports::clean(&app.pool, 5_000).await? {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store::imports::forget(&app.pool).await
}
