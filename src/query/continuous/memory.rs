//! What a query keeps of the rows that it has seen: stages that rows go through one after the other, each with steps
//! before it.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use sha2::{Digest, Sha256};

use super::condition::Columns;
use super::look_back::{LookBack, Tail};
use super::whole::Whole;
use super::windowed::{Closed, Panes, Windowed};
use super::{Chain, Shared, Step, refused, unplanned};
use crate::error::{Error, Kind, Result};

/// What stands between the two chains of a query that keeps something.
#[derive(Debug)]
pub struct Memory {
    stages: Vec<Stage>,
    fingerprint: String,
}

#[derive(Debug)]
struct Stage {
    /// What rows go through before it.
    before: Chain,
    keeps: Keeps,
}

/// What keeps rows.
#[derive(Debug)]
pub(super) enum Keeps {
    LookBack(LookBack),
    Windowed(Windowed),
    /// Nothing is kept: all groups of a window are here.
    Whole(Box<Whole>),
}

/// What is kept. It is of no use to another query.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    stages: Vec<KeptBy>,
    /// When it was looked last whether some of it is of no use any more.
    passed: Option<i64>,
}

#[derive(Debug, Clone)]
enum KeptBy {
    Tail(Tail),
    Panes(Panes),
    Nothing,
}

/// Rows with what is said of them.
#[derive(Debug)]
pub struct Said {
    /// They go through the query's last chain.
    pub rows: RecordBatch,
    /// When each happened, or the window ended that it is of.
    pub times: Vec<i64>,
    /// Which of the rows that were taken they are; nothing if they are groups of windows.
    pub which: Option<Vec<u32>>,
}

/// How often what is of no use any more is dropped at most, in microseconds of the stream's time.
const SWEEP: i64 = 10_000_000;

/// Refuses stages that do not go together.
fn go_together(stages: &[Stage]) -> Result<()> {
    let is_windowed = |stage: &&Stage| matches!(stage.keeps, Keeps::Windowed(_));
    if stages.iter().filter(is_windowed).count() > 1 {
        let hint = "write the inner ones as a query of their own, with kind = \"stream\"";
        return Err(refused("windows of windows", hint));
    }
    let has_sessions = stages.iter().any(|stage| matches!(&stage.keeps, Keeps::Windowed(w) if w.span().is_none()));
    if has_sessions && stages.iter().any(|stage| matches!(stage.keeps, Keeps::Whole(_))) {
        return Err(refused("what is made of several sessions", "each of them ends by itself"));
    }
    Ok(())
}

/// What is kept depends on what keeps it, on what is below that, and on the columns that it reads.
fn fingerprint(plan: &LogicalPlan, stages: &[Stage]) -> String {
    let mut below = plan;
    while !matches!(below, LogicalPlan::Window(_) | LogicalPlan::Aggregate(_)) {
        let Some(input) = below.inputs().into_iter().next() else { break };
        below = input;
    }
    let mut hash = Sha256::new_with_prefix(below.display_indent().to_string());
    for stage in stages {
        let columns = match &stage.keeps {
            Keeps::LookBack(look_back) => look_back.read(),
            Keeps::Windowed(windowed) => windowed.kept(),
            Keeps::Whole(_) => continue,
        };
        for field in columns.fields() {
            hash.update(format!("{} {}", field.name(), field.data_type()));
        }
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Keeps {
    fn reads(&self) -> SchemaRef {
        match self {
            Self::LookBack(look_back) => look_back.reads(),
            Self::Windowed(windowed) => windowed.reads(),
            Self::Whole(whole) => whole.reads(),
        }
    }

    fn gives(&self) -> SchemaRef {
        match self {
            Self::LookBack(look_back) => look_back.gives(),
            Self::Windowed(windowed) => windowed.gives(),
            Self::Whole(whole) => whole.gives(),
        }
    }

    fn times(&self, rows: &RecordBatch) -> DfResult<Option<TimestampMicrosecondArray>> {
        match self {
            Self::LookBack(look_back) => look_back.times(rows).map(Some),
            Self::Windowed(windowed) => windowed.times(rows).map(Some),
            Self::Whole(_) => Ok(None),
        }
    }

    fn nothing(&self) -> KeptBy {
        match self {
            Self::LookBack(_) => KeptBy::Tail(Tail::default()),
            Self::Windowed(_) => KeptBy::Panes(Panes::default()),
            Self::Whole(_) => KeptBy::Nothing,
        }
    }
}

impl Memory {
    /// Takes steps over rows with these columns apart: what keeps something, if anything does, with the steps before it,
    /// and the steps behind that.
    pub(super) fn before(
        steps: Vec<Step>,
        columns: &SchemaRef,
        plan: &LogicalPlan,
    ) -> Result<(Option<Self>, Vec<Step>)> {
        let (mut left, mut stages): (Vec<Step>, Vec<Stage>) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Keeps(keeps) => {
                    let before = stages.last().map_or_else(|| Arc::clone(columns), |stage| stage.keeps.gives());
                    let (columns, steps) = (Columns::new(&before), std::mem::take(&mut left));
                    let before = Chain { columns, steps, schema: keeps.reads(), has_more: false };
                    stages.push(Stage { before, keeps: *keeps });
                }
                step => left.push(step),
            }
        }
        go_together(&stages)?;
        let memory = (!stages.is_empty()).then(|| Self { fingerprint: fingerprint(plan, &stages), stages });
        Ok((memory, left))
    }

    /// What rows go through before each stage.
    pub(super) fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.stages.iter().map(|stage| &stage.before)
    }

    /// Columns of what it gives.
    pub(super) fn gives(&self) -> SchemaRef {
        self.stages[self.stages.len() - 1].keeps.gives()
    }

    /// How it is run, in a word.
    pub fn class(&self) -> &'static str {
        match (self.windowed().is_some(), self.span().is_some()) {
            (true, _) => "window",
            (false, true) => "sliding frame",
            (false, false) => "look-back",
        }
    }

    /// What it keeps, in words.
    pub fn describe(&self) -> String {
        let of = |stage: &Stage| match &stage.keeps {
            Keeps::LookBack(look_back) => Some(look_back.describe()),
            Keeps::Windowed(windowed) => Some(windowed.describe()),
            Keeps::Whole(_) => None,
        };
        self.stages.iter().filter_map(of).collect::<Vec<_>>().join(" and ")
    }

    fn windowed(&self) -> Option<&Windowed> {
        self.stages.iter().find_map(|stage| match &stage.keeps {
            Keeps::Windowed(windowed) => Some(windowed),
            _ => None,
        })
    }

    /// The columns that tell the groups of a window apart; nothing if it gives rows of the stream, or something else
    /// that is made of all groups together.
    pub fn groups(&self) -> Option<Vec<String>> {
        let is_whole = self.stages.iter().any(|stage| matches!(stage.keeps, Keeps::Whole(_)));
        self.windowed().filter(|_| !is_whole).map(Windowed::whose)
    }

    /// Whether it gives rows of the stream, at once, and not windows when they are over.
    pub fn gives_rows(&self) -> bool {
        self.windowed().is_none()
    }

    /// The same for queries that keep the same.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How long ago what it needs may have happened, in microseconds; nothing if that is not known.
    pub fn span(&self) -> Option<i64> {
        let span = |stage: &Stage| match &stage.keeps {
            Keeps::LookBack(look_back) => look_back.span(),
            Keeps::Windowed(windowed) => windowed.span(),
            Keeps::Whole(_) => Some(0),
        };
        self.stages.iter().map(span).try_fold(0_i64, |all, span| Some(all.saturating_add(span?)))
    }

    fn kept<'a>(&self, kept: &'a mut Kept) -> &'a mut [KeptBy] {
        if kept.stages.is_empty() {
            kept.stages = self.stages.iter().map(|stage| stage.keeps.nothing()).collect();
        }
        &mut kept.stages
    }

    /// Takes rows in, in the order of their times, and gives what is said of them; nothing if that is said when windows
    /// are over. Rows whose time is not the one they say are left out: a device's clock may be wrong.
    pub fn take(&self, rows: &RecordBatch, times: &[i64], kept: &mut Kept) -> Result<Option<Said>> {
        let kept = self.kept(kept);
        let mut taken = || {
            let own = self.stages[0].keeps.times(rows)?;
            let is_so =
                |row: &usize| own.as_ref().is_none_or(|own| own.is_valid(*row) && own.value(*row) == times[*row]);
            let which: Vec<u32> = (0..rows.num_rows()).filter(is_so).map(|row| row as u32).collect();
            let said =
                Said { rows: rows.clone(), times: times.to_vec(), which: Some((0..times.len() as u32).collect()) };
            self.go_on(0, said.only(&which)?, kept)
        };
        taken().map_err(unplanned)
    }

    /// Rows go through the stages from one on; through the chain of the first they have gone already.
    fn go_on(&self, from: usize, mut said: Said, kept: &mut [KeptBy]) -> DfResult<Option<Said>> {
        for (at, (stage, kept)) in self.stages.iter().zip(kept).enumerate().skip(from) {
            if at > 0 {
                let found = stage.before.found(&said.rows, &Shared::default())?;
                let origins = found.origins;
                said = Said { rows: found.rows, ..said.only_beside(&origins) };
            }
            match (&stage.keeps, kept) {
                (Keeps::LookBack(look_back), KeptBy::Tail(tail)) => {
                    let (rows, mine) = look_back.run(&said.rows, tail)?;
                    said = Said { rows, ..said.only_beside(&mine) };
                }
                (Keeps::Windowed(windowed), KeptBy::Panes(panes)) => {
                    windowed.take(&said.rows, panes)?;
                    return Ok(None);
                }
                (Keeps::Whole(whole), _) => {
                    let (rows, at) = (whole.run(&said.rows)?, said.times.first().copied());
                    let times = at.map_or_else(Vec::new, |at| vec![at; rows.num_rows()]);
                    said = Said { rows, times, which: None };
                }
                _ => {}
            }
        }
        Ok(Some(said))
    }

    /// How long after its end a window may be looked at, in microseconds.
    pub fn slack(&self) -> i64 {
        self.windowed().map_or(0, Windowed::slack)
    }

    /// Whether rows that it cannot take have changed nothing.
    pub fn is_atomic(&self) -> bool {
        self.stages.len() == 1
    }

    /// The same as [`Self::close`], if all of it can be said.
    pub fn pass(&self, clock: i64, kept: &mut Kept) -> Result<Vec<Said>> {
        self.close(clock, kept).into_iter().collect()
    }

    /// Time has passed: gives the windows that are over, in their order, or why nothing can be said of one, and drops
    /// what nobody can need any more.
    pub fn close(&self, clock: i64, kept: &mut Kept) -> Vec<Result<Said>> {
        let is_due = kept.passed.is_none_or(|passed| clock >= passed.saturating_add(SWEEP));
        if is_due {
            kept.passed = Some(clock);
        }
        let all = self.kept(kept);
        let mut said = Vec::new();
        for at in 0..self.stages.len() {
            match (&self.stages[at].keeps, &mut all[at]) {
                // Behind windows its time is that of their starts.
                (Keeps::LookBack(look_back), KeptBy::Tail(tail)) if is_due && self.gives_rows() => {
                    look_back.pass(clock, tail);
                }
                (Keeps::Windowed(windowed), KeptBy::Panes(panes)) => {
                    for closed in windowed.pass(clock, panes) {
                        let closed = closed.map(|Closed { rows, ends }| Said { rows, times: ends, which: None });
                        let closed = closed.and_then(|closed| self.go_on(at + 1, closed, all));
                        said.extend(closed.map_err(unplanned).transpose());
                    }
                }
                _ => {}
            }
        }
        said
    }

    /// What is kept, as rows, stage by stage.
    pub fn write(&self, kept: &Kept) -> Result<Vec<Vec<RecordBatch>>> {
        let write = |(stage, kept): (&Stage, &KeptBy)| match (&stage.keeps, kept) {
            (Keeps::LookBack(look_back), KeptBy::Tail(tail)) => look_back.write(tail).map(|rows| vec![rows]),
            (Keeps::Windowed(windowed), KeptBy::Panes(panes)) => windowed.write(panes),
            _ => Ok(Vec::new()),
        };
        self.stages.iter().zip(&kept.stages).map(|both| write(both).map_err(unusable)).collect()
    }

    /// Reads [`Self::write`]; rows were looked at until `passed`.
    pub fn read(&self, kept: &[Vec<RecordBatch>], passed: Option<i64>) -> Result<Kept> {
        let read = |(stage, kept): (&Stage, &Vec<RecordBatch>)| match (&stage.keeps, &kept[..]) {
            (Keeps::LookBack(look_back), [rows]) => look_back.restore(rows).map(KeptBy::Tail),
            (Keeps::Windowed(windowed), rows) => windowed.restore(rows, passed).map(KeptBy::Panes),
            (keeps, _) => Ok(keeps.nothing()),
        };
        let stages = self.stages.iter().zip(kept).map(|both| read(both).map_err(unusable)).collect::<Result<_>>()?;
        Ok(Kept { stages, passed: None })
    }
}

impl Said {
    /// These of the rows.
    fn only(self, rows: &[u32]) -> DfResult<Self> {
        if rows.len() == self.times.len() {
            return Ok(self);
        }
        let some = take_record_batch(&self.rows, &UInt32Array::from(rows.to_vec()))?;
        Ok(Self { rows: some, ..self.only_beside(rows) })
    }

    /// What is known of these of the rows beside their columns.
    fn only_beside(self, rows: &[u32]) -> Self {
        let times = rows.iter().map(|row| self.times[*row as usize]).collect();
        let which = self.which.map(|which| rows.iter().map(|row| which[*row as usize]).collect());
        Self { rows: self.rows, times, which }
    }
}

impl Kept {
    /// How many rows are kept, or groups of windows.
    pub fn rows(&self) -> usize {
        self.stages.iter().map(KeptBy::rows).sum()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.stages.iter().map(KeptBy::bytes).sum()
    }
}

impl KeptBy {
    fn rows(&self) -> usize {
        match self {
            Self::Tail(tail) => tail.rows_kept(),
            Self::Panes(panes) => panes.rows(),
            Self::Nothing => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Tail(tail) => tail.bytes(),
            Self::Panes(panes) => panes.bytes(),
            Self::Nothing => 0,
        }
    }
}

fn unusable(cause: DataFusionError) -> Error {
    Error::new(Kind::Internal, "what a query has kept cannot be used").because(cause)
}
