//! Threads of their own for queries: planning and running burn CPU, and must not hold up ingest, health checks or
//! the protocols on the process's runtime. (Light look-ups, of some microseconds, run where they are asked.)

use std::future::Future;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::error::{Error, Kind, Result};
use crate::task::IDLE_THREAD;

/// A plan that is as deep as is allowed is taken apart on such a stack.
const STACK_BYTES: usize = 16 << 20;

/// A runtime that may be dropped anywhere.
pub(super) struct Threads {
    runtime: Option<Runtime>,
}

impl Threads {
    pub(super) fn new(count: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count.max(1))
            .thread_stack_size(STACK_BYTES)
            .thread_name("query")
            .thread_keep_alive(IDLE_THREAD)
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|cause| Error::new(Kind::Internal, "query threads cannot be started").because(cause))?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Starts `work`; dropping the task ends it at its next await.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let mut set = JoinSet::new();
        if let Some(runtime) = &self.runtime {
            set.spawn_on(work, runtime.handle());
        }
        Task { set }
    }

    /// Runs `work` to its end; dropping the future ends it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let mut task = self.spawn(work);
        Box::pin(async move {
            match task.set.join_next().await {
                Some(Ok(result)) => result,
                // A panic inside DataFusion must not take more down than its statement.
                Some(Err(cause)) => Err(Error::new(Kind::Internal, "the query stopped before its end").because(cause)),
                None => Err(Error::new(Kind::Cancelled, "the query service is closed")),
            }
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A running task; dropping it ends it.
pub(super) struct Task<T> {
    set: JoinSet<T>,
}

/// Makes joins give way. DataFusion yields where rows are read, but a join makes millions of rows of one batch: such
/// a query would hold its thread, deaf to its deadline and to being cancelled.
#[derive(Debug)]
pub(super) struct JoinsYield;

impl PhysicalOptimizerRule for JoinsYield {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|node| {
            let many = node.name().contains("Join") || node.name().contains("Unnest");
            Ok(if many { Transformed::yes(Arc::new(CooperativeExec::new(node)) as _) } else { Transformed::no(node) })
        });
        wrapped.map(|done| done.data)
    }

    fn name(&self) -> &str {
        "joins_yield"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
