//! Commands in instances.

use insula_api::{Answer, Code, ExecSession, Problem};
use insula_rpc::Code as RpcCode;
use insula_types::{ExecSpec, InstanceId};

use super::{NodeApi, instances::no_such_instance};

impl NodeApi {
    pub(super) async fn begin_command(&self, id: InstanceId, spec: ExecSpec) -> Answer<ExecSession> {
        let node = self.region.read(|region| region.placements.get(&id).map(|placement| placement.node));
        let node = node.ok_or_else(|| no_such_instance(id))?;
        self.execs.begin(node, id, spec).await.map_err(|status| {
            let code = match status.code {
                RpcCode::FailedPrecondition => Code::Conflict,
                RpcCode::InvalidArgument => Code::InvalidRequest,
                RpcCode::UnknownMethod => Code::NotYet,
                RpcCode::Internal => Code::Internal,
                RpcCode::DeadlineExceeded => Code::TimedOut,
                _ => {
                    let why = format!("run a command in {id} on node {node}: {status}");
                    return Problem::new(Code::NodeUnreachable, why);
                }
            };
            Problem::new(code, status.to_string())
        })
    }
}
