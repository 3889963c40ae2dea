//! Look-ups: rows of tables with one row per key, or of files, beside those of the stream.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{cast, filter_record_batch, interleave, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{DFSchema, JoinType, Result as DfResult};
use datafusion::datasource::source_as_provider;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::{conjunction, find_valid_equijoin_key_pair, split_conjunction};
use datafusion::logical_expr::{Expr, ExprSchemable as _, Join, Operator};
use datafusion::physical_plan::PhysicalExpr;
use parking_lot::Mutex;

use super::{Now, Step, boolean, column_of, has_columns, physical, refused, run, spine};
use crate::error::Error;
use crate::latest::{Rows, Since};
use crate::query::compute::columns;
use crate::query::error;
use crate::query::latest::{KeyedTable, external};
use crate::schema::conform;

/// All rows are indexed anew when more keys have changed than this …
const FEW: usize = 256;
/// … and more than one of so many.
const A_PART: usize = 128;

/// Rows of a table with one row per key, by equality.
#[derive(Debug)]
pub(super) struct LookUp {
    rows: Arc<dyn Rows>,
    columns: SchemaRef,
    projection: Option<Vec<usize>>,
    /// What is made of its rows, and the columns of that.
    steps: Vec<Step>,
    own: SchemaRef,
    /// Pairs of what must be equal: of the rows that look up, and of those that are found.
    left: Vec<Arc<dyn PhysicalExpr>>,
    right: Vec<Arc<dyn PhysicalExpr>>,
    /// Which of the pairs gives each of the table's key columns, if all are given.
    key: Option<Vec<usize>>,
    /// What else must be true.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Rows for which nothing is found stay.
    is_left: bool,
    schema: SchemaRef,
    /// What is made of a row depends on that row alone.
    is_own: bool,
    /// All rows, as they were a moment ago.
    all: Mutex<Option<Arc<Known>>>,
}

/// How rows are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By the key of their table.
    Key,
    /// By other columns: all of them are indexed in memory.
    Index,
    /// By nothing that is equal: each row is compared with all of them.
    Comparison,
}

/// The rows that may be found: as they were once, and those of the keys that have changed since then.
#[derive(Debug)]
struct Known {
    then: Arc<Indexed>,
    /// How often the rows had changed then …
    then_changes: u64,
    /// … and now.
    changes: u64,
    /// Rows of then that are others now, or gone.
    gone: HashSet<u32>,
    now: Option<Indexed>,
}

/// Rows by what must be equal.
#[derive(Debug)]
struct Indexed {
    rows: RecordBatch,
    at: HashMap<Box<[u8]>, Vec<u32>>,
    /// By the table's key: what was made of its row.
    of_key: HashMap<Box<[u8]>, Vec<u32>>,
}

/// Which of two batches a row is in, and where.
type Place = (usize, usize);

impl Known {
    fn of(changes: u64, then: Indexed) -> Self {
        Self { then: Arc::new(then), then_changes: changes, changes, gone: HashSet::new(), now: None }
    }

    /// Where the rows are that have this key.
    fn places<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = Place> + 'a {
        let then = self.then.at.get(key).into_iter().flatten().filter(|row| !self.gone.contains(row));
        let now = self.now.iter().filter_map(|now| now.at.get(key)).flatten();
        then.map(|row| (0, *row as usize)).chain(now.map(|row| (1, *row as usize)))
    }

    /// A column of rows at these places.
    fn column(&self, at: usize, places: &[Place]) -> Result<ArrayRef, ArrowError> {
        let then = self.then.rows.column(at);
        match &self.now {
            Some(now) => interleave(&[&**then, &**now.rows.column(at)], places),
            None => take(then, &UInt32Array::from_iter_values(places.iter().map(|(_, row)| *row as u32)), None),
        }
    }
}

impl LookUp {
    /// What a join says of its right side.
    pub fn of(join: &Join, state: &SessionState) -> Result<Self, Error> {
        let is_left = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return Err(refused(&format!("{other} JOIN"), "JOIN and LEFT JOIN look rows up")),
        };
        let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
        let mut equal = join.on.clone();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for condition in join.filter.iter().flat_map(split_conjunction) {
            let pair = match condition {
                Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
                    find_valid_equijoin_key_pair(&binary.left, &binary.right, left_schema, right_schema)
                        .map_err(|cause| error::from_datafusion(cause, ""))?
                        .or_else(|| constant(&binary.left, &binary.right, right_schema))
                        .or_else(|| constant(&binary.right, &binary.left, right_schema))
                }
                _ => None,
            };
            match pair {
                Some(pair) => equal.push(pair),
                None if has_columns(right_schema, condition) => own.push(condition.clone()),
                None => others.push(condition.clone()),
            }
        }
        let mut steps = Vec::new();
        let scan = spine(&join.right, state, false, &mut steps)?;
        if let Some(filter) = conjunction(own) {
            steps.push(Step::Filter(physical(&filter, right_schema, state)?));
        }
        let table = scan.table_name.table().to_owned();
        let provider = source_as_provider(&scan.source).map_err(|cause| error::from_datafusion(cause, ""))?;
        let Some(keyed) = (&*provider as &dyn Any).downcast_ref::<KeyedTable>() else {
            let text = format!("{table} is joined, and has not one row per key");
            return Err(refused(
                &text,
                "the first table of FROM is the stream; others are mirrors, latest or reference tables",
            ));
        };
        let rows = keyed.rows();
        // Each row of the stream is compared with all of its rows then.
        if equal.is_empty() && !rows.is_reference() {
            let text = format!("{table} is joined without an equality");
            return Err(refused(&text, "rows are looked up by what equals: ON a.x = b.y, or ON b.y = 'x'"));
        }
        let of_key = |name: &String| equal.iter().position(|(_, right)| column_of(&join.right, right) == Some(name));
        let key = rows.key().iter().map(of_key).collect::<Option<Vec<_>>>();
        let key = key.filter(|key| !key.is_empty()).filter(|key| {
            let kinds = rows.schema();
            let is_same = |(at, name): (&usize, &String)| {
                let kind = kinds.field_with_name(name).map(|field| field.data_type().clone()).ok();
                let sought = equal[*at].0.get_type(left_schema.as_ref()).ok();
                kind.is_some() && kind == sought
            };
            key.iter().zip(rows.key()).all(is_same)
        });
        let is_own = !steps.iter().any(|step| matches!(step, Step::LookUp(_) | Step::Union(..)));
        Ok(Self {
            columns: datafusion::catalog::TableProvider::schema(keyed),
            projection: scan.projection.clone(),
            rows,
            steps,
            own: Arc::clone(right_schema.inner()),
            left: equal.iter().map(|(left, _)| physical(left, left_schema, state)).collect::<Result<_, Error>>()?,
            right: equal.iter().map(|(_, right)| physical(right, right_schema, state)).collect::<Result<_, Error>>()?,
            key,
            filter: conjunction(others).map(|filter| physical(&filter, &join.schema, state)).transpose()?,
            is_left,
            schema: Arc::clone(join.schema.inner()),
            is_own,
            all: Mutex::default(),
        })
    }

    /// Name of the table.
    pub fn table(&self) -> &str {
        self.rows.name()
    }

    /// How its rows are found.
    pub fn by(&self) -> By {
        match (&self.key, self.left.is_empty()) {
            (Some(_), _) => By::Key,
            (None, false) => By::Index,
            (None, true) => By::Comparison,
        }
    }

    /// What is made of its rows before they are found.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Rows with what is found for each.
    pub fn run(&self, now: Now) -> DfResult<Now> {
        if now.rows.num_rows() == 0 {
            return Ok(Now { rows: RecordBatch::new_empty(Arc::clone(&self.schema)), ..now });
        }
        let sought = columns(&self.left, &now.rows)?;
        let known = self.known(&sought)?;
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (row, key) in keys(&sought, now.rows.num_rows())?.iter().enumerate() {
            for found in key.iter().flat_map(|key| known.places(key)) {
                from.push(row as u32);
                to.push(found);
            }
        }
        let columns = (0..self.own.fields().len()).map(|at| known.column(at, &to));
        let mut rows = self.side_by_side(&now.rows, &from, columns)?;
        if let Some(filter) = &self.filter {
            let is_in = boolean(filter, &rows)?;
            rows = filter_record_batch(&rows, &is_in)?;
            let is_in = |at: usize| is_in.is_valid(at) && is_in.value(at);
            from = from.iter().enumerate().filter(|(at, _)| is_in(*at)).map(|(_, row)| *row).collect();
        }
        if self.is_left {
            let mut is_found = vec![false; now.rows.num_rows()];
            from.iter().for_each(|row| is_found[*row as usize] = true);
            let missed: Vec<u32> = (0..is_found.len() as u32).filter(|row| !is_found[*row as usize]).collect();
            let nothing = self.own.fields().iter().map(|field| Ok(new_null_array(field.data_type(), missed.len())));
            let alone = self.side_by_side(&now.rows, &missed, nothing)?;
            rows = arrow::compute::concat_batches(&self.schema, [&rows, &alone])?;
            from.extend(missed);
        }
        let from = UInt32Array::from(from);
        let origins = take(&now.origins, &from, None)?.as_primitive().clone();
        let holds = take(&now.holds, &from, None)?.as_boolean().clone();
        Ok(Now { rows, origins, holds })
    }

    /// These rows of the left, and columns of the right beside them.
    fn side_by_side(
        &self,
        left: &RecordBatch,
        from: &[u32],
        right: impl Iterator<Item = Result<ArrayRef, ArrowError>>,
    ) -> DfResult<RecordBatch> {
        let left = take_record_batch(left, &UInt32Array::from(from.to_vec()))?;
        let columns = left.columns().iter().cloned().map(Ok).chain(right).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(from.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// The rows that may be found.
    fn known(&self, sought: &[ArrayRef]) -> DfResult<Arc<Known>> {
        if let Some(key) = &self.key {
            let keys: Vec<ArrayRef> = key.iter().map(|at| Arc::clone(&sought[*at])).collect();
            let found = self.rows.get(&keys).map_err(external)?;
            return Ok(Arc::new(Known::of(0, self.indexed(&found.into_iter().collect::<Vec<_>>())?)));
        }
        let mut all = self.all.lock();
        let known = match all.take().filter(|_| self.is_own) {
            Some(known) if known.changes == self.rows.changes() => known,
            Some(known) => match self.since(&known)? {
                Some(known) => Arc::new(known),
                None => Arc::new(self.anew()?),
            },
            None => Arc::new(self.anew()?),
        };
        *all = Some(Arc::clone(&known));
        Ok(known)
    }

    fn anew(&self) -> DfResult<Known> {
        // Before the rows are read: what changes meanwhile makes them old again.
        let changes = self.rows.changes();
        Ok(Known::of(changes, self.indexed(&self.rows.scan().map_err(external)?)?))
    }

    /// The same rows as they are now; nothing if more have changed than is worth the while.
    fn since(&self, known: &Known) -> DfResult<Option<Known>> {
        let most = FEW.max(known.then.rows.num_rows() / A_PART);
        let Some(Since { changes, keys: changed, rows }) =
            self.rows.since(known.then_changes, most).map_err(external)?
        else {
            return Ok(None);
        };
        let kind = |name: &String| self.columns.field_with_name(name).map(|field| field.data_type().clone());
        let changed = changed.iter().zip(self.rows.key()).map(|(column, name)| cast(column, &kind(name)?));
        let changed = changed.collect::<Result<Vec<_>, ArrowError>>()?;
        let count = changed.first().map_or(0, |column| column.len());
        let changed = keys(&changed, count)?;
        let gone = changed.iter().flatten().filter_map(|key| known.then.of_key.get(key)).flatten().copied().collect();
        let (then, then_changes) = (Arc::clone(&known.then), known.then_changes);
        Ok(Some(Known { then, then_changes, changes, gone, now: Some(self.indexed(&[rows])?) }))
    }

    fn indexed(&self, batches: &[RecordBatch]) -> DfResult<Indexed> {
        let batches = batches.iter().map(|rows| conform(rows, &self.columns)).collect::<Result<Vec<_>, _>>()?;
        let mut rows = arrow::compute::concat_batches(&self.columns, &batches)?;
        let own = self.rows.key().iter().map(|name| rows.column_by_name(name).cloned()).collect::<Option<Vec<_>>>();
        let own = own.filter(|own| self.key.is_none() && !own.is_empty());
        let own = own.map(|own| keys(&own, rows.num_rows())).transpose()?.unwrap_or_default();
        if let Some(projection) = &self.projection {
            rows = rows.project(projection)?;
        }
        let now = run(&self.steps, Now::of(rows), false, &self.own, None)?;
        let mut at: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        let key = columns(&self.right, &now.rows)?;
        for (row, key) in keys(&key, now.rows.num_rows())?.into_iter().enumerate() {
            if let Some(key) = key {
                at.entry(key).or_default().push(row as u32);
            }
        }
        let mut of_key: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        for (row, origin) in now.origins.values().iter().enumerate() {
            if let Some(Some(own)) = own.get(*origin as usize) {
                of_key.entry(own.clone()).or_default().push(row as u32);
            }
        }
        Ok(Indexed { rows: now.rows, at, of_key })
    }
}

/// The key of each of `count` rows; `None` where a part of it is null, and so equals nothing. Without a column all rows
/// have the same.
fn keys(columns: &[ArrayRef], count: usize) -> DfResult<Vec<Option<Box<[u8]>>>> {
    if columns.is_empty() {
        return Ok(vec![Some(Box::default()); count]);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(columns)?;
    let is_whole = |row: usize| columns.iter().all(|column| column.is_valid(row));
    Ok((0..count).map(|row| is_whole(row).then(|| rows.row(row).as_ref().into())).collect())
}

/// What `value` is equal to of the rows that are looked up, if it is the same for all that look up.
fn constant(value: &Expr, other: &Expr, right: &DFSchema) -> Option<(Expr, Expr)> {
    let is_pair = value.column_refs().is_empty() && !other.column_refs().is_empty() && has_columns(right, other);
    is_pair.then(|| (value.clone(), other.clone()))
}
