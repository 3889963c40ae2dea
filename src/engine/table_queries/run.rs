//! One run: the rows of the SELECT take the place of those that the table has, or of some parts of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use chrono::{DateTime, Utc};
use futures::StreamExt;

use super::changed::{Part, changed, is_by_parts, versions};
use super::{Parts, Why};
use crate::engine::catalog::EngineCatalog;
use crate::engine::dead_letters::literal;
use crate::engine::unreadable;
use crate::error::{Error, Kind, Result};
use crate::lake::{CommitError, Lake, MadeTable, Numbers, Piece, RUN, Replaces, SOURCE, Staged, TEXT, TableError};
use crate::query::{Query, Service, statement_text};
use crate::schema::{plain_type, quoted_name};
use crate::stream::TableQuery;
use crate::task::{Shutdown, failpoint};

/// When the run was due, in microseconds since 1970.
const DUE: &str = "due";

/// What a run has at hand.
pub struct Run<'a> {
    pub lake: &'a Lake,
    pub catalog: &'a Arc<EngineCatalog>,
    pub service: &'a Service,
    pub abort: &'a Shutdown,
    pub query: &'a TableQuery,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Made {
    pub run: i64,
    /// The parts that were made anew; none: all rows.
    pub parts: Option<Vec<String>>,
    pub rows: u64,
    pub bytes: u64,
    /// The table version with them; none if nothing had changed.
    pub table_version: Option<u64>,
}

impl Made {
    pub fn mode(&self) -> &'static str {
        if self.parts.is_some() { "incremental" } else { "full" }
    }
}

/// When the rows were due that the table `name` has; `None` if it was never made.
pub async fn last_due(lake: &Lake, name: &str) -> Result<Option<DateTime<Utc>>> {
    let table = MadeTable::open(lake, name).await.map_err(unreadable)?;
    let due = table.filter(|table| table.number(RUN) > 0).map(|table| table.number(DUE));
    Ok(due.map(|due| DateTime::from_timestamp_micros(due).unwrap_or_default()))
}

/// Which rows a run replaces.
enum What {
    All,
    Parts(BTreeSet<Part>),
    Between(Option<String>, Option<String>),
}

impl Run<'_> {
    pub async fn make(&self, why: &Why) -> Result<Made> {
        let name = &self.query.name;
        let session = self.service.session();
        session.set("statement_timeout", "0")?;
        let planned = session.query(&self.query.sql).await?;
        let schema = check(self.query, &planned)?;
        let table = MadeTable::open(self.lake, name).await.map_err(unreadable)?;
        if let Some(table) = table.as_ref().filter(|table| table.number(RUN) == 0 && table.table().files() > 0) {
            let message = format!("the lake has a table {} that no scheduled query made", table.table().name());
            return Err(Error::new(Kind::Refused, message).hint("give the query another name, or move the table away"));
        }
        // What is read is at least as new: what comes in between is seen as changed by the next run, too.
        let now = versions(self.catalog, &planned.tables());
        let what = self.what(table.as_ref(), &planned, &schema, why, &now).await?;
        if let What::Parts(parts) = &what
            && parts.is_empty()
        {
            let run = table.as_ref().map_or(0, |table| table.number(RUN));
            return Ok(Made { run, parts: Some(Vec::new()), ..Made::default() });
        }
        // It is planned anew, with the parts in it.
        let rows = session.query(&self.sql(&schema, &what)?).await?;
        let (staged, parts) = self.stage(&rows, &schema).await?;
        failpoint::hit("query_run_after_stage");
        let (replaces, parts) = match what {
            What::All => (Replaces::All(Arc::clone(&schema)), None),
            What::Parts(wanted) => self.replaces(wanted),
            What::Between(..) => {
                let before = table.as_ref().map(|table| self.parts_of(table, &what)).transpose()?.unwrap_or_default();
                self.replaces(parts.into_iter().chain(before).collect())
            }
        };
        let mut others = Numbers::new();
        if !matches!(why, Why::Asked(Parts::Between { .. })) {
            others.extend(now.into_iter().map(|(name, version)| (format!("{SOURCE}{name}"), version + 1)));
            others.insert(TEXT.to_owned(), self.text());
        }
        if let Why::Due(due) = why {
            others.insert(DUE.to_owned(), due.timestamp_micros());
        } else if table.as_ref().is_none_or(|table| table.number(RUN) == 0) {
            others.insert(DUE.to_owned(), Utc::now().timestamp_micros());
        }
        let (rows, bytes) = (staged.rows, staged.bytes());
        let partition: Vec<&str> = self.query.partition_by.iter().map(String::as_str).collect();
        let mut table = match table {
            Some(table) => table,
            None => MadeTable::make(self.lake, name, &schema, &partition).await.map_err(unreadable)?,
        };
        let replaced = async {
            if !matches!(replaces, Replaces::All(_)) {
                table.widen(&schema).await?;
            }
            let run = table.number(RUN);
            table.replace(staged, &replaces, RUN, (run, run + 1), &others, self.abort).await
        };
        match replaced.await {
            Ok(true) => {}
            Ok(false) | Err(CommitError::Rival { .. }) => {
                let message = format!("table {name} was written to by another at that moment");
                return Err(Error::new(Kind::Unavailable, message).hint("run it again: nothing was done"));
            }
            Err(error) => return Err(error.into()),
        }
        failpoint::hit("query_run_after_commit");
        self.catalog.show_made(name, &table)?;
        let (run, table_version) = (table.number(RUN), Some(table.table().version()));
        Ok(Made { run, parts, rows, bytes, table_version })
    }

    /// The query's text, as a number.
    fn text(&self) -> i64 {
        let hex = self.query.hash.get(..15).unwrap_or(&self.query.hash);
        i64::from_str_radix(hex, 16).unwrap_or(0)
    }

    async fn what(
        &self,
        table: Option<&MadeTable>,
        planned: &Query,
        schema: &SchemaRef,
        why: &Why,
        now: &Numbers,
    ) -> Result<What> {
        let parts = match why {
            Why::Due(_) => &Parts::Changed,
            Why::Asked(parts) => parts,
        };
        let is_parted = self.query.partition_by.is_some();
        let table = table.filter(|table| table.number(RUN) > 0);
        match (parts, table) {
            (Parts::Between { .. }, _) if !is_parted => {
                let message = format!("table {} is not in parts: it is made anew as a whole", self.query.name);
                Err(Error::new(Kind::Usage, message).hint("partition_by = [\"day\"] parts it by that column"))
            }
            (Parts::Between { .. }, None) => {
                let message = format!("table {} is not there yet: it is made as a whole first", self.query.name);
                Err(Error::new(Kind::Usage, message).hint("leave out --from and --to"))
            }
            (Parts::Between { from, to }, Some(table)) => {
                self.has_same_parts(table, schema)?;
                let is_text = |field: &Field| matches!(field.data_type(), DataType::Date32 | DataType::Utf8);
                let column = self.query.partition_by.as_ref();
                // Others have another order as they are written.
                if !column.is_some_and(|column| schema.field_with_name(column).is_ok_and(is_text)) {
                    let message = format!("the parts of table {} are neither days nor texts", self.query.name);
                    return Err(Error::new(Kind::Usage, message).hint("--full makes all of them anew"));
                }
                Ok(What::Between(from.clone(), to.clone()))
            }
            (Parts::All, _) | (Parts::Changed, None) => self.whole(table),
            (Parts::Changed, Some(table)) => {
                let is_same = table.number(TEXT) == self.text() && suits(table, schema).map_err(unreadable)?;
                if !is_same || !is_by_parts(self.catalog, self.query, planned) {
                    return self.whole(Some(table));
                }
                self.has_same_parts(table, schema)?;
                Ok(changed(self.lake, self.catalog, table, self.query, now).await?.map_or(What::All, What::Parts))
            }
        }
    }

    fn whole(&self, table: Option<&MadeTable>) -> Result<What> {
        let Some(table) = table else { return Ok(What::All) };
        let snapshot = table.table().snapshot().map_err(unreadable)?;
        let now: Vec<&str> = self.query.partition_by.iter().map(String::as_str).collect();
        if snapshot.metadata().partition_columns() != &now[..] {
            let message = format!("table {} has other parts than partition_by says", self.query.name);
            let hint = "a table's parts stay: give the query's file another name, or move the table away";
            return Err(Error::new(Kind::Refused, message).hint(hint));
        }
        Ok(What::All)
    }

    fn has_same_parts(&self, table: &MadeTable, schema: &SchemaRef) -> Result<()> {
        self.whole(Some(table))?;
        if suits(table, schema).map_err(unreadable)? {
            return Ok(());
        }
        let message = format!("the query's columns are of other types than those of table {}", self.query.name);
        Err(Error::new(Kind::Refused, message).hint("`millpond query run --full` makes it anew as a whole"))
    }

    /// The SELECT over those rows. Parts come one after the other, so that few files are open at once.
    fn sql(&self, schema: &SchemaRef, what: &What) -> Result<String> {
        let select = format!("SELECT * FROM ({})", statement_text(&self.query.sql)?);
        let Some(column) = &self.query.partition_by else { return Ok(select) };
        let is_date = schema.field_with_name(column).is_ok_and(|field| field.data_type() == &DataType::Date32);
        let value = |text: &String| {
            if is_date && text.parse::<chrono::NaiveDate>().is_err() {
                return Err(Error::new(Kind::Usage, format!("`{text}` is no day")).hint("such as 2026-11-20"));
            }
            Ok(if is_date { format!("DATE {}", literal(text)) } else { literal(text) })
        };
        let column = quoted_name(column);
        let mut wanted = Vec::new();
        match what {
            What::All => {}
            What::Parts(parts) => {
                let values = parts.iter().flatten().map(value).collect::<Result<Vec<_>>>()?;
                let mut either = Vec::new();
                if !values.is_empty() {
                    either.push(format!("{column} IN ({})", values.join(", ")));
                }
                if parts.contains(&None) {
                    either.push(format!("{column} IS NULL"));
                }
                wanted.push(format!("({})", either.join(" OR ")));
            }
            What::Between(from, to) => {
                wanted.extend(from.as_ref().map(value).transpose()?.map(|from| format!("{column} >= {from}")));
                wanted.extend(to.as_ref().map(value).transpose()?.map(|to| format!("{column} <= {to}")));
            }
        }
        let filter = if wanted.is_empty() { String::new() } else { format!(" WHERE {}", wanted.join(" AND ")) };
        Ok(format!("{select}{filter} ORDER BY {column}"))
    }

    /// The parts that the table has within what is asked for.
    fn parts_of(&self, table: &MadeTable, what: &What) -> Result<Vec<Part>> {
        let (Some(column), What::Between(from, to)) = (&self.query.partition_by, what) else { return Ok(Vec::new()) };
        let snapshot = table.table().snapshot().map_err(unreadable)?;
        let files = snapshot.log_data();
        let values = files.iter().map(|file| file.partition_values_map().remove(column).flatten());
        let is_within = |part: &Part| {
            let Some(part) = part else { return false };
            from.as_ref().is_none_or(|from| part >= from) && to.as_ref().is_none_or(|to| part <= to)
        };
        Ok(values.filter(is_within).collect())
    }

    fn replaces(&self, parts: BTreeSet<Part>) -> (Replaces, Option<Vec<String>>) {
        let shown = parts.iter().map(|part| part.clone().unwrap_or_else(|| "NULL".to_owned())).collect();
        let column = self.query.partition_by.clone().unwrap_or_default();
        (Replaces::Partitions(column, parts), Some(shown))
    }

    /// Writes the rows; the parts that they are of.
    async fn stage(&self, rows: &Query, schema: &SchemaRef) -> Result<(Staged, BTreeSet<Part>)> {
        let partition: Vec<String> = self.query.partition_by.iter().cloned().collect();
        let begin = || Piece::begin(self.lake, &self.query.name, schema, &partition, &[]).map_err(unwritable);
        let mut parts = BTreeSet::new();
        let mut staged: Option<Staged> = None;
        let mut add = |new: Staged| match &mut staged {
            Some(staged) => staged.append(new),
            none => *none = Some(new),
        };
        let mut piece = begin()?;
        let mut found = rows.run().await?;
        while let Some(batch) = found.next().await {
            let batch = match batch {
                Ok(batch) => plain(&batch, schema)?,
                Err(error) => {
                    add(piece.finish().await.map_err(unwritable)?);
                    if let Some(staged) = staged {
                        staged.discard().await;
                    }
                    return Err(error);
                }
            };
            if batch.num_rows() == 0 {
                continue;
            }
            // They come in order: where another part begins, the one before is whole.
            for (part, range) in values(&batch, self.query.partition_by.as_ref())? {
                if let Some(part) = part
                    && parts.insert(part)
                    && piece.rows > 0
                {
                    let whole = std::mem::replace(&mut piece, begin()?);
                    add(whole.finish().await.map_err(unwritable)?);
                }
                piece.write(&batch.slice(range.start, range.len())).await.map_err(unwritable)?;
            }
        }
        let mut whole = piece.finish().await.map_err(unwritable)?;
        if let Some(before) = staged {
            whole.append(before);
        }
        Ok((whole, parts))
    }
}

/// The columns of the query's table; an error if what it selects is no table.
pub fn check(query: &TableQuery, planned: &Query) -> Result<SchemaRef> {
    let schema = columns(&planned.schema());
    let wrong = |message: String| Err(Error::new(Kind::Query, message));
    if planned.tables().contains(&query.name) {
        return wrong(format!("{} would read its own rows", query.name));
    }
    let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
    names.sort();
    if let Some(two) = names.windows(2).find(|two| two[0] == two[1]) {
        return wrong(format!("the query selects two columns `{}`: name them apart with AS", two[0]));
    }
    match &query.partition_by {
        Some(column) if schema.field_with_name(column).is_err() => {
            wrong(format!("partition_by: the query selects no column `{column}`"))
        }
        _ => Ok(schema),
    }
}

/// The columns of a table for rows of these.
fn columns(selected: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| {
        let comment = field.metadata().get(crate::schema::DESCRIPTION_KEY).cloned();
        let metadata = comment.map(|text| (crate::schema::DESCRIPTION_KEY.to_owned(), text)).into_iter().collect();
        Field::new(field.name(), plain_type(field.data_type()), true).with_metadata(metadata)
    };
    Arc::new(Schema::new(selected.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Whether rows of these columns can stand beside those that the table has.
fn suits(table: &MadeTable, schema: &SchemaRef) -> Result<bool, TableError> {
    let known = table.table().arrow_schema()?;
    let is_same = |field: &Arc<Field>| {
        known.field_with_name(field.name()).is_ok_and(|known| known.data_type() == field.data_type())
    };
    let is_new = |field: &Arc<Field>| known.field_with_name(field.name()).is_err();
    Ok(schema.fields().iter().all(|field| is_same(field) || is_new(field)))
}

fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns: std::result::Result<Vec<ArrayRef>, _> =
        columns.map(|(column, field)| cast(column, field.data_type())).collect();
    columns
        .and_then(|columns| RecordBatch::try_new(Arc::clone(schema), columns))
        .map_err(|error| Error::new(Kind::Query, "what the query selects is nothing that a table keeps").because(error))
}

/// The parts that rows are of, one after the other, and which rows those are; all of them if the table is not in parts.
fn values(batch: &RecordBatch, column: Option<&String>) -> Result<Vec<(Option<Part>, Range<usize>)>> {
    let Some(column) = column.and_then(|column| batch.column_by_name(column)) else {
        return Ok(vec![(None, 0..batch.num_rows())]);
    };
    let distinct = arrow::compute::partition(std::slice::from_ref(column)).map_err(crate::engine::rows::broken)?;
    let part = |range: Range<usize>| {
        let text = column.is_valid(range.start).then(|| array_value_to_string(column, range.start)).transpose();
        Ok((Some(text.map_err(crate::engine::rows::broken)?), range))
    };
    distinct.ranges().into_iter().map(part).collect()
}

fn unwritable(error: TableError) -> Error {
    Error::new(Kind::Unavailable, "rows cannot be written").because(error)
}
