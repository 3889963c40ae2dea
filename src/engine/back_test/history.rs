//! The rows of one table as they came, slice by slice.

use std::collections::BTreeSet;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;

use crate::engine::rows::{broken, query, time};
use crate::error::Result;
use crate::lake::View;
use crate::query::Service;
use crate::schema::{LogicalColumn, fixed, quoted_name};
use crate::stream::{Batch, Micros};

/// A table.
pub(super) struct History {
    pub table: String,
    /// How late its rows may be.
    pub lateness: Micros,
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

/// Rows, and when each came.
pub(super) struct Slice {
    pub batch: Batch,
    pub at: Vec<Micros>,
}

impl History {
    pub fn new(view: &View, lateness: Micros) -> Self {
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

    /// What there is between two times; nothing if no row is.
    pub async fn extent(&self, service: &Service, from: Micros, until: Micros) -> Result<Option<Extent>> {
        let at = format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", fixed::TIMESTAMP);
        let sql = format!(
            "SELECT count(*), min({at}), max({at}) FROM public.{} WHERE {}",
            quoted_name(&self.table),
            between(from, until)
        );
        let rows = query(service, &sql).await?;
        let Some(rows) = rows.first() else { return Ok(None) };
        let count = rows.column(0).as_primitive::<Int64Type>().value(0);
        let time = |column: usize| rows.column(column).as_primitive::<TimestampMicrosecondType>().value(0);
        Ok((count > 0).then(|| Extent { rows: count as u64, first: time(1), last: time(2) }))
    }

    /// The rows that came from `from` on and before `until`, in the order in which they did; nothing if there are none.
    pub async fn read(&self, service: &Service, from: Micros, until: Micros) -> Result<Option<Slice>> {
        let order = [fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW].join(", ");
        let sql = format!("{} WHERE {} ORDER BY {order}", self.select(), between(from, until));
        let rows = query(service, &sql).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let rows = concat_batches(&first.schema(), &rows).map_err(broken)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let batch = Batch::of_records(rows, self.time).map_err(broken)?;
        // The records of a partition came in its order, whatever their times say.
        let mut at = batch.recorded();
        for row in 1..at.len() {
            let (before, now) = (&batch.causes[row - 1], &batch.causes[row]);
            if before.partition == now.partition && before.topic == now.topic {
                at[row] = at[row].max(at[row - 1]);
            }
        }
        let mut order: Vec<u32> = (0..at.len() as u32).collect();
        order.sort_by_key(|row| at[*row as usize]);
        let at = order.iter().map(|row| at[*row as usize]).collect();
        Ok(Some(Slice { batch: batch.only(&order).map_err(broken)?.into_owned(), at }))
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

/// SQL that is true of rows whose records came from `from` on and before `until`.
fn between(from: Micros, until: Micros) -> String {
    let column = fixed::TIMESTAMP;
    format!("{column} >= {} AND {column} < {}", timestamp(from), timestamp(until))
}

fn timestamp(at: Micros) -> String {
    format!("to_timestamp_micros({at})")
}
