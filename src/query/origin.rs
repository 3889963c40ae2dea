//! Where a column of a query comes from: which columns of tables it passes on as they are.

use datafusion::common::JoinType;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use super::PUBLIC;

/// A table of schema `public`, and its column.
pub type Origin = (String, String);

fn unaliased(mut expr: &Expr) -> &Expr {
    while let Expr::Alias(alias) = expr {
        expr = &alias.expr;
    }
    expr
}

/// Which column of `input` an expression is, if it is one.
fn place_of(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    let Expr::Column(column) = unaliased(expr) else { return None };
    input.schema().index_of_column(column).ok()
}

/// The columns whose values the column `at` of a plan has, and no others; `None` if it has others, too, or if which rows there
/// are depends on rows with other values.
pub(super) fn origins(plan: &LogicalPlan, at: usize) -> Option<Vec<Origin>> {
    let through = |expr: &Expr, input: &LogicalPlan| origins(input, place_of(expr, input)?);
    match plan {
        LogicalPlan::Projection(projection) => through(projection.expr.get(at)?, &projection.input),
        LogicalPlan::Aggregate(aggregate) => through(aggregate.group_expr.get(at)?, &aggregate.input),
        LogicalPlan::Filter(filter) => origins(&filter.input, at),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => origins(&sort.input, at),
        LogicalPlan::Distinct(Distinct::All(input)) => origins(input, at),
        LogicalPlan::SubqueryAlias(alias) => origins(&alias.input, at),
        // Of a row each window must be within its part.
        LogicalPlan::Window(window) if at < window.input.schema().fields().len() => {
            let is_within = |expr: &Expr| {
                let Expr::WindowFunction(function) = unaliased(expr) else { return false };
                function.params.partition_by.iter().any(|by| place_of(by, &window.input) == Some(at))
            };
            window.window_expr.iter().all(is_within).then(|| origins(&window.input, at))?
        }
        LogicalPlan::Union(union) => {
            let all: Option<Vec<_>> = union.inputs.iter().map(|input| origins(input, at)).collect();
            Some(all?.concat())
        }
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            // The other side of an outer join is null where it has no row.
            match join.join_type {
                JoinType::Inner => {}
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti if at < left => {}
                JoinType::Right if at >= left => {}
                _ => return None,
            }
            if at < left { origins(&join.left, at) } else { origins(&join.right, at - left) }
        }
        LogicalPlan::TableScan(scan) if scan.fetch.is_none() => {
            let name = scan.projected_schema.field(at).name();
            if let Some(view) = scan.source.get_logical_plan() {
                return origins(&view, view.schema().fields().iter().position(|field| field.name() == name)?);
            }
            let is_public = scan.table_name.schema().is_none_or(|schema| schema == PUBLIC);
            is_public.then(|| vec![(scan.table_name.table().to_owned(), name.clone())])
        }
        _ => None,
    }
}
