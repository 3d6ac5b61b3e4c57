//! The routes, by resource.

mod api_keys;
mod audit;
mod authorize;
mod browser;
mod checks;
mod client_registration;
mod clients;
mod credentials;
mod delegations;
mod device;
mod discovery;
mod end_session;
mod external;
mod factors;
mod introspection;
mod login;
mod login_page;
mod nodes;
mod oauth;
mod origin;
mod passkeys;
mod passwords;
mod pushed;
mod registration;
mod sessions;
mod token;
mod userinfo;

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    routing::options,
};
use kronos_common::privacy;
use tower_http::cors::{Any, CorsLayer};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use discovery::Metadata;

use crate::App;

/// Answers that hold a secret are kept by nobody (RFC 6749 section 5.1).
const NO_STORE: [(header::HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// All of them.
pub(crate) fn all() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(privacy::routes("user-service"))
        .routes(routes!(login::log_in))
        .routes(routes!(login::refresh))
        .routes(routes!(login::log_out))
        .routes(routes!(sessions::list_sessions, sessions::end_sessions))
        .routes(routes!(sessions::end_session, sessions::name_session))
        .routes(routes!(passwords::change_password))
        .routes(routes!(passwords::ask_for_reset))
        .routes(routes!(passwords::reset_password))
        .routes(routes!(passwords::reset_by_desk))
        .routes(routes!(registration::register))
        .routes(routes!(registration::verify_email))
        .routes(routes!(registration::resend_verification))
        .routes(routes!(registration::list_invitations, registration::invite))
        .routes(routes!(registration::withdraw_invitation))
        .routes(routes!(factors::list_factors))
        .routes(routes!(api_keys::list_api_keys, api_keys::create_api_key))
        .routes(routes!(api_keys::revoke_api_key))
        .routes(routes!(api_keys::exchange_api_key))
        .routes(routes!(nodes::list_nodes, nodes::create_node))
        .routes(routes!(nodes::create_claim))
        .routes(routes!(nodes::enrol_node))
        .routes(routes!(nodes::rotate_node_key))
        .routes(routes!(nodes::get_node, nodes::change_node))
        .routes(routes!(nodes::list_node_keys, nodes::add_node_key))
        .routes(routes!(nodes::disable_node_key))
        .routes(routes!(factors::begin_totp, factors::remove_totp))
        .routes(routes!(factors::confirm_totp))
        .routes(routes!(factors::make_recovery_codes))
        .routes(routes!(factors::reset_factors))
        .routes(routes!(passkeys::list_passkeys))
        .routes(routes!(passkeys::begin_passkey))
        .routes(routes!(passkeys::finish_passkey))
        .routes(routes!(passkeys::rename_passkey, passkeys::remove_passkey))
        .routes(routes!(passkeys::begin_passkey_login))
        .routes(routes!(passkeys::finish_passkey_login))
        .routes(routes!(checks::verify_token))
        .routes(routes!(checks::check_access))
        .routes(routes!(credentials::put_credentials, credentials::delete_credentials))
        .routes(routes!(checks::batch::check_batch))
        .routes(routes!(checks::authzen::evaluate))
        .routes(routes!(checks::authzen::evaluate_many))
        .routes(routes!(checks::authzen::get_authzen_configuration))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::get_checkpoint))
        .routes(routes!(audit::export_audit))
        .merge(for_scripts())
        .routes(routes!(introspection::introspect_token))
        .routes(routes!(introspection::revoke_token))
        .routes(routes!(delegations::list_delegations, delegations::end_delegations))
        .routes(routes!(client_registration::register_client))
        .routes(routes!(
            client_registration::read_registration,
            client_registration::change_registration,
            client_registration::end_registration
        ))
        .routes(routes!(clients::list_clients, clients::create_client))
        .routes(routes!(clients::get_client, clients::put_client, clients::patch_client, clients::delete_client))
        .routes(routes!(clients::rotate_client_secret))
        .routes(routes!(authorize::authorize, authorize::authorize_by_form))
        .routes(routes!(authorize::consent))
        .routes(routes!(authorize::get_style))
        .routes(routes!(login_page::get_script))
        .routes(routes!(login_page::log_in))
        .routes(routes!(login_page::show_logged_in))
        .routes(routes!(pushed::push_request))
        .routes(routes!(pushed::authorize_device))
        .routes(routes!(device::show_device, device::decide_device))
        .routes(routes!(end_session::end_session, end_session::end_session_by_form))
        .routes(routes!(external::begin_external))
        .routes(routes!(external::end_external))
        .routes(routes!(external::ask_link, external::begin_link))
        .routes(routes!(external::list_links))
        .routes(routes!(external::delete_link))
        .routes(routes!(discovery::get_jwks))
        .routes(routes!(discovery::get_openid_configuration))
        .routes(routes!(discovery::get_oauth_metadata))
}

/// What scripts of other origins may call (CORS): they show a code or a token, never a cookie.
fn for_scripts() -> OpenApiRouter<App> {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("dpop")])
        .expose_headers([header::WWW_AUTHENTICATE])
        .max_age(Duration::from_secs(3600));
    // The layer answers; without a handler it would not be asked.
    let preflight = || options(async || StatusCode::NO_CONTENT);
    OpenApiRouter::new()
        .routes(routes!(token::issue_token))
        .routes(routes!(userinfo::get_userinfo, userinfo::post_userinfo))
        .route("/oauth/token", preflight())
        .route("/oauth/userinfo", preflight())
        .layer(cors)
}

/// The permissions that handlers ask for.
pub(in crate::routes) mod permissions {
    use kronos_common::identity::Permission;

    pub(in crate::routes) struct CanVerifyTokens;

    impl Permission for CanVerifyTokens {
        const NAME: &'static str = "tokens:verify";
    }

    pub(in crate::routes) struct CanCheckAccess;

    impl Permission for CanCheckAccess {
        const NAME: &'static str = "access:check";
    }

    pub(in crate::routes) struct CanReadClients;

    impl Permission for CanReadClients {
        const NAME: &'static str = "clients:read";
    }

    pub(in crate::routes) struct CanWriteClients;

    impl Permission for CanWriteClients {
        const NAME: &'static str = "clients:write";
    }

    pub(in crate::routes) struct CanWriteSessions;

    impl Permission for CanWriteSessions {
        const NAME: &'static str = "sessions:write";
    }

    pub(in crate::routes) struct CanRegisterClients;

    impl Permission for CanRegisterClients {
        const NAME: &'static str = "clients:register";
    }

    pub(in crate::routes) struct CanWriteCredentials;

    impl Permission for CanWriteCredentials {
        const NAME: &'static str = "credentials:write";
    }

    pub(super) struct CanResetCredentials;

    impl Permission for CanResetCredentials {
        const NAME: &'static str = "credentials:reset";
    }

    pub(super) struct CanWriteFactors;

    impl Permission for CanWriteFactors {
        const NAME: &'static str = "factors:write";
    }

    pub(super) struct CanReadNodes;

    impl Permission for CanReadNodes {
        const NAME: &'static str = "nodes:read";
    }

    pub(super) struct CanWriteNodes;

    impl Permission for CanWriteNodes {
        const NAME: &'static str = "nodes:write";
    }

    pub(super) struct CanReadInvitations;

    impl Permission for CanReadInvitations {
        const NAME: &'static str = "invitations:read";
    }

    pub(super) struct CanWriteInvitations;

    impl Permission for CanWriteInvitations {
        const NAME: &'static str = "invitations:write";
    }

    pub(in crate::routes) struct CanReadAudit;

    impl Permission for CanReadAudit {
        const NAME: &'static str = "audit:read";
    }
}
