//! Calls about apps: releases, scale, secrets, instances.

use http::Method;
use insula_types::{
    AppDefinition, AppName, InstanceId, RegionName, ReleaseNumber, Revealed, Revision, Scale, SecretName, SecretValue,
    ServiceName, ServiceRef,
};

use super::{CALL_LIMIT, Call, Client, ClientError, LogReader, expecting};
use crate::{
    LogOptions,
    router::WAIT_MAX,
    wire::{
        App, AppStatus, AppSummary, Deleted, DeployAnswer, Deployment, Instance, List, PlacementSurvey, Release,
        ReleaseDefinition, RestartBody, RollbackBody, Route, Running, RunningBody, ScaleBody, Scaled, Secret,
        SecretBody, SecretRemoved, SecretSet, Steered, Steering, SteeringBody, Versioned, Waiting,
    },
};

impl Client {
    /// All apps.
    ///
    /// # Errors
    /// [`ClientError`], as every call here.
    pub async fn apps(&self) -> Result<List<AppSummary>, ClientError> {
        self.get("/v1/apps").await
    }

    /// One app with its definition.
    ///
    /// # Errors
    /// As every call here.
    pub async fn app(&self, app: &AppName) -> Result<Versioned<App>, ClientError> {
        self.get(format!("/v1/apps/{app}")).await
    }

    /// What a deploy would change.
    ///
    /// # Errors
    /// As every call here.
    pub async fn plan(&self, definition: &AppDefinition) -> Result<Versioned<DeployAnswer>, ClientError> {
        self.json(self.deploy_call(definition, "?plan=true")).await
    }

    /// Makes a release of a definition. With `expected`, only when the app has that release now (0: none).
    ///
    /// # Errors
    /// As every call here.
    pub async fn deploy(
        &self,
        definition: &AppDefinition,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        self.json(expecting(self.deploy_call(definition, ""), expected.map(|release| release.0))).await
    }

    /// The releases of an app that are kept, the newest first.
    ///
    /// # Errors
    /// As every call here.
    pub async fn releases(&self, app: &AppName) -> Result<List<Release>, ClientError> {
        self.get(format!("/v1/apps/{app}/releases")).await
    }

    /// One release, with its definition.
    ///
    /// # Errors
    /// As every call here.
    pub async fn release(
        &self,
        app: &AppName,
        number: ReleaseNumber,
    ) -> Result<Versioned<ReleaseDefinition>, ClientError> {
        self.get(format!("/v1/apps/{app}/releases/{number}")).await
    }

    /// Makes a release of what an earlier one was, or, as a plan, says what that would change. With `expected`, only when the app
    /// has that release now.
    ///
    /// # Errors
    /// As every call here.
    pub async fn rollback(
        &self,
        app: &AppName,
        to: Option<ReleaseNumber>,
        is_plan: bool,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        let query = if is_plan { "?plan=true" } else { "" };
        let call = self.call(Method::POST, format!("/v1/apps/{app}/rollback{query}")).with_json(&RollbackBody { to });
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// Replaces the instances of what runs by new ones, as a new release, or, as a plan, says what that would change. Without a service,
    /// of all services. With `expected`, only when the app has that release now.
    ///
    /// # Errors
    /// As every call here.
    pub async fn restart(
        &self,
        app: &AppName,
        service: Option<&ServiceName>,
        is_plan: bool,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<DeployAnswer>, ClientError> {
        let query = if is_plan { "?plan=true" } else { "" };
        let body = RestartBody { service: service.cloned() };
        let call = self.call(Method::POST, format!("/v1/apps/{app}/restart{query}")).with_json(&body);
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// Stops a service, or lets it run again; without one, all services of the app.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_running(
        &self,
        app: &AppName,
        service: Option<&ServiceName>,
        running: bool,
    ) -> Result<Versioned<Running>, ClientError> {
        let body = RunningBody { service: service.cloned(), running };
        self.json(self.call(Method::POST, format!("/v1/apps/{app}/running")).with_json(&body)).await
    }

    /// How far regions are with the release that an app shall run.
    ///
    /// # Errors
    /// As every call here.
    pub async fn deployments(&self, app: &AppName) -> Result<List<Deployment>, ClientError> {
        self.get(format!("/v1/apps/{app}/deployments")).await
    }

    /// Lets a deployment go another way. With `expected`, only when it is that of this release.
    ///
    /// # Errors
    /// As every call here.
    pub async fn steer(
        &self,
        app: &AppName,
        steering: Steering,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<Steered>, ClientError> {
        let call = self.call(Method::POST, format!("/v1/apps/{app}/deployments"));
        self.json(expecting(call.with_json(&SteeringBody { steering }), expected.map(|release| release.0))).await
    }

    fn deploy_call(&self, definition: &AppDefinition, query: &str) -> Call {
        let call = self.call(Method::PUT, format!("/v1/apps/{}{query}", definition.app));
        call.with_json(&definition.to_json())
    }

    /// Removes an app.
    ///
    /// # Errors
    /// As every call here.
    pub async fn delete_app(
        &self,
        app: &AppName,
        expected: Option<ReleaseNumber>,
    ) -> Result<Versioned<Deleted>, ClientError> {
        let call = self.call(Method::DELETE, format!("/v1/apps/{app}"));
        self.json(expecting(call, expected.map(|release| release.0))).await
    }

    /// How an app is. With `wait`, once the state is beyond that revision or after [`WAIT_MAX`].
    ///
    /// # Errors
    /// As every call here.
    pub async fn app_status(&self, app: &AppName, wait: Option<Revision>) -> Result<Versioned<AppStatus>, ClientError> {
        let query = wait.map(|revision| format!("?wait={revision}")).unwrap_or_default();
        let mut call = self.call(Method::GET, format!("/v1/apps/{app}/status{query}"));
        if wait.is_some() {
            call.limit = CALL_LIMIT + WAIT_MAX;
        }
        self.json(call).await
    }

    /// Sets the scale of a service, in one region or in all of them.
    ///
    /// # Errors
    /// As every call here.
    pub async fn scale(
        &self,
        service: &ServiceRef,
        scale: Scale,
        region: Option<RegionName>,
    ) -> Result<Versioned<Scaled>, ClientError> {
        let path = format!("/v1/apps/{}/services/{}/scale", service.app, service.service);
        self.json(self.call(Method::PUT, path).with_json(&ScaleBody { scale, region })).await
    }

    /// Secrets of an app, without their values.
    ///
    /// # Errors
    /// As every call here.
    pub async fn secrets(&self, app: &AppName) -> Result<List<Secret>, ClientError> {
        self.json(self.call(Method::GET, format!("/v1/apps/{app}/secrets"))).await
    }

    /// Gives a secret a value.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_secret(
        &self,
        app: &AppName,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Versioned<SecretSet>, ClientError> {
        let body = SecretBody { value: Revealed(value.clone()) };
        self.json(self.call(Method::PUT, format!("/v1/apps/{app}/secrets/{name}")).with_json(&body)).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_secret(
        &self,
        app: &AppName,
        name: &SecretName,
    ) -> Result<Versioned<SecretRemoved>, ClientError> {
        self.json(self.call(Method::DELETE, format!("/v1/apps/{app}/secrets/{name}"))).await
    }

    /// Instances of one app or of all.
    ///
    /// # Errors
    /// As every call here.
    pub async fn instances(&self, app: Option<&AppName>) -> Result<List<Instance>, ClientError> {
        match app {
            Some(app) => self.get(format!("/v1/apps/{app}/instances")).await,
            None => self.get("/v1/instances").await,
        }
    }

    /// What the edges of the region bring where, in the order of hosts and paths.
    ///
    /// # Errors
    /// As every call here.
    pub async fn routes(&self) -> Result<List<Route>, ClientError> {
        self.get("/v1/routes").await
    }

    /// What losses of nodes have left without a place.
    ///
    /// # Errors
    /// As every call here.
    pub async fn waiting(&self) -> Result<List<Waiting>, ClientError> {
        self.get("/v1/waiting").await
    }

    /// One instance.
    ///
    /// # Errors
    /// As every call here.
    pub async fn instance(&self, id: InstanceId) -> Result<Versioned<Instance>, ClientError> {
        self.get(format!("/v1/instances/{id}")).await
    }

    /// What an instance wrote. The time until the first byte is bounded, what follows is not.
    ///
    /// # Errors
    /// As every call here.
    pub async fn logs(&self, id: InstanceId, options: LogOptions) -> Result<LogReader, ClientError> {
        let LogOptions { tail, since_ms, follow } = options;
        let tail = tail.map(|lines| format!("&tail={lines}")).unwrap_or_default();
        let since = since_ms.map(|ms| format!("&since_ms={ms}")).unwrap_or_default();
        self.stream(format!("/v1/instances/{id}/logs?follow={follow}{tail}{since}")).await
    }

    /// Where the next instance of a service would go, and why not elsewhere.
    ///
    /// # Errors
    /// As every call here.
    pub async fn survey(&self, service: &ServiceRef) -> Result<Versioned<PlacementSurvey>, ClientError> {
        let ServiceRef { app, service } = service;
        self.get(format!("/v1/apps/{app}/services/{service}/placement")).await
    }
}
