//! Commands in instances.

use insula_api::{Answer, Code, ExecSession, Problem};
use insula_control::one_off;
use insula_rpc::Code as RpcCode;
use insula_types::{DriverKind, ExecSpec, InstanceId, ServiceRef};

use super::{
    NodeApi,
    apps::{no_such_app, no_such_service},
    instances::no_such_instance,
};

impl NodeApi {
    pub(super) fn begin_one_off(&self, service: ServiceRef, spec: ExecSpec) -> Answer<ExecSession> {
        let node = self.region.read(|region| {
            let definition = region.definitions.get(&service.app).ok_or_else(|| no_such_app(&service.app))?;
            let wanted = definition.services.get(&service.service).ok_or_else(|| no_such_service(&service))?;
            if wanted.spec.driver != DriverKind::Container {
                let why = format!("{service} runs as a plain process: only containers get one-off instances");
                return Err(Problem::new(Code::Conflict, why));
            }
            if !one_off::may_be_told(region, &service, &wanted.spec) {
                let why = format!(
                    "secrets are opened on nodes alone where an instance that has them is placed, and none of {service} is: \
                     scale it up, or wait until its new release is placed"
                );
                return Err(Problem::new(Code::Conflict, why));
            }
            one_off::choose(region, &service, &wanted.spec, self.node)
                .map_err(|error| Problem::new(Code::Busy, error.to_string()))
        })?;
        Ok(self.execs.begin_one_off(node, service, spec))
    }

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
