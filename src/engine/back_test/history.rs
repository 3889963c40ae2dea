//! The rows of one table as they came, slice by slice.

use std::collections::BTreeSet;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use futures::TryStreamExt;

use crate::engine::rows::{broken, query, time};
use crate::error::Result;
use crate::lake::View;
use crate::query::Service;
use crate::schema::{LogicalColumn, fixed, quoted_name};
use crate::stream::{Batch, Micros, believed_sql};

/// A table, and when each of its rows is looked at.
pub(super) struct History {
    pub table: String,
    /// So long after they happened; those of which this is not known, when their records came.
    pub lateness: Option<Micros>,
    /// The column that says when a row happened.
    time: &'static str,
    all: Vec<String>,
    wanted: BTreeSet<String>,
}

/// What there is of a table.
pub(super) struct Extent {
    pub rows: u64,
    pub first: Micros,
    pub last: Micros,
}

/// Rows, and when each is looked at.
pub(super) struct Slice {
    pub batch: Batch,
    pub at: Vec<Micros>,
}

fn timestamp(at: Micros) -> String {
    format!("to_timestamp_micros({at})")
}

impl History {
    pub fn new(view: &View, lateness: Option<Micros>) -> Self {
        let all = LogicalColumn::all(&view.schema).into_iter().map(|column| column.name).collect();
        let time = time(view);
        let wanted = [time, fixed::TIMESTAMP, fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW];
        let wanted = wanted.into_iter().map(str::to_owned).collect();
        Self { table: view.table.to_string(), lateness, time, all, wanted }
    }

    /// These columns are wanted, too.
    pub fn want<'a>(&mut self, columns: impl IntoIterator<Item = &'a str>) {
        self.wanted.extend(columns.into_iter().map(str::to_owned));
    }

    fn select(&self) -> String {
        let columns = self.all.iter().filter(|name| self.wanted.contains(*name));
        let columns: Vec<String> = columns.map(|name| quoted_name(name)).collect();
        format!("SELECT {} FROM public.{}", columns.join(", "), quoted_name(&self.table))
    }

    /// SQL for when a row counts, before the lateness.
    fn counts(&self) -> String {
        match self.lateness {
            Some(_) => believed_sql(self.time, fixed::TIMESTAMP),
            None => fixed::TIMESTAMP.to_owned(),
        }
    }

    /// SQL that is true of rows that are looked at from `from` on and before `until`.
    fn between(&self, from: Micros, until: Micros) -> String {
        let late = self.lateness.unwrap_or(0);
        let (from, until) = (timestamp(from.saturating_sub(late)), timestamp(until.saturating_sub(late)));
        let is_in = |column: &str| format!("({column} >= {from} AND {column} < {until})");
        match self.lateness {
            None => is_in(fixed::TIMESTAMP),
            // The first part is for who leaves out files by what their columns hold.
            Some(_) => format!(
                "({} OR {}) AND {}",
                is_in(self.time),
                is_in(fixed::TIMESTAMP),
                is_in(&format!("({})", self.counts()))
            ),
        }
    }

    /// What there is between two times; nothing if no row is.
    pub async fn extent(&self, service: &Service, from: Micros, until: Micros) -> Result<Option<Extent>> {
        let at = format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", self.counts());
        let sql = format!(
            "SELECT count(*), min({at}), max({at}) FROM public.{} WHERE {}",
            quoted_name(&self.table),
            self.between(from, until)
        );
        let late = self.lateness.unwrap_or(0);
        let rows = query(service, &sql).await?;
        let Some(rows) = rows.first() else { return Ok(None) };
        let count = rows.column(0).as_primitive::<Int64Type>().value(0);
        let time = |column: usize| rows.column(column).as_primitive::<TimestampMicrosecondType>().value(0) + late;
        Ok((count > 0).then(|| Extent { rows: count as u64, first: time(1), last: time(2) }))
    }

    /// The rows that are looked at from `from` on and before `until`, in that order; nothing if there are none.
    pub async fn read(&self, service: &Service, from: Micros, until: Micros) -> Result<Option<Slice>> {
        let order = [&self.counts(), fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW].join(", ");
        let sql = format!("{} WHERE {} ORDER BY {order}", self.select(), self.between(from, until));
        let rows = query(service, &sql).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let rows = concat_batches(&first.schema(), &rows).map_err(broken)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let batch = Batch::of_records(rows, self.time).map_err(broken)?;
        let at = match self.lateness {
            Some(late) => batch.times.iter().map(|at| at + late).collect(),
            None => recorded(&batch.rows)?,
        };
        Ok(Some(Slice { batch, at }))
    }

    /// All rows whose records came before `until`, in any order.
    pub async fn before(
        &self,
        service: &Service,
        until: Micros,
        mut each: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let sql = format!("{} WHERE {} < {}", self.select(), fixed::TIMESTAMP, timestamp(until));
        let session = service.session();
        session.set("statement_timeout", "0")?;
        let mut rows = session.query(&sql).await?.run().await?;
        while let Some(rows) = rows.try_next().await? {
            each(&rows)?;
        }
        Ok(())
    }
}

/// When records came.
pub(super) fn recorded(rows: &RecordBatch) -> Result<Vec<Micros>> {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let Some(column) = rows.column_by_name(fixed::TIMESTAMP) else { return Ok(vec![0; rows.num_rows()]) };
    let column = cast(column, &micros).map_err(broken)?;
    Ok(column.as_primitive::<TimestampMicrosecondType>().iter().map(|at| at.unwrap_or(0)).collect())
}
