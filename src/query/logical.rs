//! Columns that succeed each other are shown as one (the schema room's `widen` says when they come to be): the newest
//! that is not null. A row has a value in one of them at most, so their order does not matter.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column as Name, Result, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, case, cast, is_not_null};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::schema::LogicalColumn;

/// Integers up to here, from zero, are doubles, too.
const EXACT: f64 = (1_u64 << 53) as f64;

/// A table's columns as people see them, and those that are stored.
#[derive(Debug)]
pub(super) struct Shown {
    schema: SchemaRef,
    /// In the order of `schema`: the stored columns behind each, newest first.
    stored: Vec<Vec<Field>>,
}

impl Shown {
    /// The order people see: their own columns, then Millpond's (`_…`). No field metadata, all nullable.
    pub fn new(stored: &Schema) -> Self {
        let (own, users): (Vec<_>, Vec<_>) =
            LogicalColumn::all(stored).into_iter().partition(|column| column.name.starts_with('_'));
        let plain = |field: &Field| Field::new(field.name(), field.data_type().clone(), true);
        let (mut fields, mut stored) = (Vec::new(), Vec::new());
        for column in users.into_iter().chain(own) {
            fields.push(Field::new(&column.name, column.newest().data_type().clone(), true));
            stored.push(column.columns.iter().map(|field| plain(field)).collect());
        }
        Self { schema: Arc::new(Schema::new(fields)), stored }
    }

    /// What people see.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The stored columns behind those that `projection` names (all without one).
    pub fn stored(&self, projection: Option<&Vec<usize>>) -> SchemaRef {
        let fields = self.wanted(projection).flat_map(|at| self.stored[at].clone());
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Puts the columns that `projection` names together from `plan`, which gives [`Shown::stored`].
    pub fn assemble(
        &self,
        projection: Option<&Vec<usize>>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.wanted(projection).all(|at| self.stored[at].len() == 1) {
            return Ok(plan);
        }
        let given = plan.schema();
        let mut place = 0;
        let mut shown: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::new();
        for at in self.wanted(projection) {
            let field = self.schema.field(at);
            let mut choices = Vec::new();
            for stored in &self.stored[at] {
                let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(stored.name(), place));
                choices.push((is_not_null(Arc::clone(&column))?, cast(column, &given, field.data_type().clone())?));
                place += 1;
            }
            // The oldest is what is left; for most columns it is the only one.
            let Some((_, oldest)) = choices.pop() else { continue };
            let expr = if choices.is_empty() { oldest } else { case(None, choices, Some(oldest))? };
            shown.push((expr, field.name().clone()));
        }
        Ok(Arc::new(ProjectionExec::try_new(shown, plan)?))
    }

    /// `filter` on the stored columns, if it can be said of them exactly.
    pub fn push_down(&self, filter: &Expr) -> Option<Expr> {
        let widened = |name: &Name| self.members(&name.name).is_some_and(|members| members.len() > 1);
        if !filter.column_refs().into_iter().any(widened) {
            return Some(filter.clone());
        }
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { return None };
        match (&**left, &**right) {
            (Expr::Column(name), Expr::Literal(value, _)) => self.compare(name, *op, value),
            (Expr::Literal(value, _), Expr::Column(name)) => self.compare(name, op.swap()?, value),
            _ => None,
        }
    }

    /// `name op value` for a double that was a bigint before: the one or the other compares so.
    fn compare(&self, name: &Name, op: Operator, value: &ScalarValue) -> Option<Expr> {
        let ScalarValue::Float64(Some(value)) = value else { return None };
        let mut any: Option<Expr> = None;
        for stored in self.members(&name.name)? {
            let column = Expr::Column(Name::new(name.relation.clone(), stored.name()));
            let compared = match stored.data_type() {
                DataType::Float64 => Some(binary(column, op, lit(*value))),
                DataType::Int64 if value.abs() <= EXACT => {
                    let bound = match op {
                        Operator::Gt | Operator::LtEq => value.floor(),
                        Operator::Lt | Operator::GtEq => value.ceil(),
                        Operator::Eq => *value,
                        _ => return None,
                    };
                    // No integer equals 12.5.
                    (op != Operator::Eq || value.fract() == 0.0).then(|| binary(column, op, lit(bound as i64)))
                }
                _ => return None,
            };
            any = match (any, compared) {
                (Some(any), Some(compared)) => Some(any.or(compared)),
                (any, compared) => any.or(compared),
            };
        }
        any
    }

    fn members(&self, name: &str) -> Option<&Vec<Field>> {
        self.stored.get(self.schema.index_of(name).ok()?)
    }

    fn wanted<'a>(&'a self, projection: Option<&'a Vec<usize>>) -> Box<dyn Iterator<Item = usize> + 'a> {
        match projection {
            Some(columns) => Box::new(columns.iter().copied()),
            None => Box::new(0..self.stored.len()),
        }
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::logical_expr::col;

    use super::*;
    use crate::schema::WIDENS_KEY;

    fn shown() -> Shown {
        let widens = |field: Field, name: &str| field.with_metadata(HashMap::from([(WIDENS_KEY.into(), name.into())]));
        Shown::new(&Schema::new(vec![
            Field::new("_offset", DataType::Int64, true),
            Field::new("n", DataType::Int64, true),
            Field::new("x", DataType::Int64, true),
            widens(Field::new("n__w1", DataType::Float64, true), "n"),
            widens(Field::new("x__w1", DataType::Utf8, true), "x"),
        ]))
    }

    #[test]
    fn one_column_of_the_newest_type_stands_for_all() {
        let shown = shown();
        let fields: Vec<_> = shown.schema().fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
        assert_eq!(fields, [("n", &DataType::Float64), ("x", &DataType::Utf8), ("_offset", &DataType::Int64)]);
        let names = |schema: SchemaRef| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        assert_eq!(names(shown.stored(Some(&vec![2, 0]))), ["_offset", "n__w1", "n"]);
        assert_eq!(names(shown.stored(None)), ["n__w1", "n", "x__w1", "x", "_offset"]);
    }

    #[test]
    fn a_filter_is_pushed_only_where_it_says_the_same() {
        let shown = shown();
        let both = |op: Operator, wide: f64, narrow: i64| {
            Some(binary(col("n__w1"), op, lit(wide)).or(binary(col("n"), op, lit(narrow))))
        };
        for (filter, pushed) in [
            (col("_offset").gt(lit(5_i64)), Some(col("_offset").gt(lit(5_i64)))),
            (col("n").gt(lit(12.5)), both(Operator::Gt, 12.5, 12)),
            (col("n").gt_eq(lit(12.5)), both(Operator::GtEq, 12.5, 13)),
            (col("n").lt(lit(-0.5)), both(Operator::Lt, -0.5, 0)),
            (col("n").lt_eq(lit(-0.5)), both(Operator::LtEq, -0.5, -1)),
            (col("n").eq(lit(3.0)), both(Operator::Eq, 3.0, 3)),
            (lit(3.0).lt(col("n")), both(Operator::Gt, 3.0, 3)),
            (col("n").eq(lit(12.5)), Some(col("n__w1").eq(lit(12.5)))),
            (col("n").not_eq(lit(3.0)), None),
            (col("n").gt(lit(1e300)), None),
            (col("n").gt(lit(f64::NAN)), None),
            (col("n").is_null(), None),
            (col("x").eq(lit("3")), None),
            (col("n").gt(col("_offset")), None),
        ] {
            assert_eq!(shown.push_down(&filter), pushed, "{filter}");
        }
    }
}
