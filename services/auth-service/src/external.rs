//! Other identity providers: the OpenID Connect ones by discovery, and GitHub, which is none. What they say of a person is an
//! unchanging name and a label; an e-mail address is never a reason to let anybody in.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, ExtraTokenFields,
    HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, StandardTokenResponse,
    TokenResponse as _, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;

use crate::config;

const TIMEOUT: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: usize = 512 * 1024;
/// Metadata and keys are read again after so long.
const FRESH: Duration = Duration::from_secs(600);
/// Clocks may differ by so much, in seconds.
const LEEWAY: u64 = 60;
const LONGEST_SUBJECT: usize = 255;

/// All that are configured.
#[derive(Clone)]
pub(crate) struct Providers(Arc<Vec<Provider>>);

/// One of them.
pub(crate) struct Provider {
    pub name: String,
    pub label: String,
    kind: config::ExternalKind,
    issuer: String,
    client_id: String,
    client_secret: Option<SecretString>,
    redirect_uri: String,
    http: reqwest::Client,
    known: Mutex<Option<(tokio::time::Instant, Arc<Metadata>)>>,
}

/// What discovery says (OpenID Connect Discovery section 3).
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    jwks_uri: String,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// A login there that is under way.
#[derive(Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub state: String,
    nonce: String,
    verifier: String,
}

/// Who it is there.
#[derive(Debug)]
pub(crate) struct Identity {
    pub subject: String,
    pub label: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct IdTokenField {
    id_token: Option<String>,
}

impl ExtraTokenFields for IdTokenField {}

type OidcResponse = StandardTokenResponse<IdTokenField, BasicTokenType>;
type Client<T> = oauth2::Client<
    BasicErrorResponse,
    T,
    BasicTokenIntrospectionResponse,
    oauth2::StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

#[derive(Debug, Deserialize)]
struct IdClaims {
    sub: String,
    nonce: Option<String>,
    azp: Option<String>,
    aud: OneOrMany,
    email: Option<String>,
    preferred_username: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct GithubUser {
    id: u64,
    login: String,
}

/// What an HTTP call to a provider failed with.
#[derive(Debug, thiserror::Error)]
#[error("the provider did not answer as expected: {0}")]
struct CallFailed(String);

impl Providers {
    /// Reads the configuration and the secrets' files.
    ///
    /// # Errors
    /// A setting that cannot be, by name.
    pub(crate) fn new(configured: &[config::External], issuer_url: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("Kronos")
            .build()
            .context("make the HTTP client of external providers")?;
        let mut providers: Vec<Provider> = Vec::new();
        for entry in configured {
            let name = &entry.name;
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            ensure!(
                (1..=32).contains(&name.len()) && name.bytes().all(plain),
                "configuration key `external.name`: 1 to 32 lowercase letters, digits and hyphens, not `{name}`"
            );
            ensure!(providers.iter().all(|known| known.name != *name), "`external`: two are named `{name}`");
            let issuer = match (&entry.issuer, entry.kind) {
                (Some(issuer), _) => issuer.trim_end_matches('/').to_owned(),
                (None, config::ExternalKind::Google) => "https://accounts.google.com".to_owned(),
                (None, config::ExternalKind::Github) => "https://github.com".to_owned(),
                (None, config::ExternalKind::Oidc) => bail!("`external` `{name}`: an OpenID provider has an issuer"),
            };
            check_url(&issuer).with_context(|| format!("`external` `{name}`: `issuer`"))?;
            let client_secret = match &entry.client_secret_file {
                None => None,
                Some(file) => {
                    let text = fs::read_to_string(file)
                        .with_context(|| format!("`external` `{name}`: read {}", file.display()))?;
                    Some(SecretString::from(text.trim().to_owned()))
                }
            };
            providers.push(Provider {
                name: name.clone(),
                label: entry.label.clone().unwrap_or_else(|| name.clone()),
                kind: entry.kind,
                issuer,
                client_id: entry.client_id.clone(),
                client_secret,
                redirect_uri: format!("{issuer_url}/oauth/external/{name}/callback"),
                http: http.clone(),
                known: Mutex::new(None),
            });
        }
        Ok(Self(Arc::new(providers)))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Provider> {
        self.0.iter().find(|provider| provider.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.0.iter()
    }
}

/// TLS, or this very machine: a provider's answers decide who somebody is.
fn check_url(text: &str) -> anyhow::Result<()> {
    let url = url::Url::parse(text).with_context(|| format!("`{text}` is no URL"))?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    ensure!(url.scheme() == "https" || (url.scheme() == "http" && local), "`{text}` is not reached over TLS");
    Ok(())
}

impl Provider {
    /// The address to send a browser to, and what to remember until it is back.
    ///
    /// # Errors
    /// The provider does not answer as expected.
    pub(crate) async fn begin(&self) -> anyhow::Result<(String, Attempt)> {
        let metadata = self.metadata().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random().secret().clone();
        let client = self.client::<EmptyExtraTokenFields>(&metadata)?;
        let mut request = client.authorize_url(CsrfToken::new_random).set_pkce_challenge(challenge);
        if self.kind == config::ExternalKind::Github {
            request = request.add_scope(Scope::new("read:user".to_owned()));
        } else {
            for scope in ["openid", "profile", "email"] {
                request = request.add_scope(Scope::new(scope.to_owned()));
            }
            request = request.add_extra_param("nonce", &nonce);
        }
        let (url, state) = request.url();
        Ok((url.into(), Attempt { state: state.secret().clone(), nonce, verifier: verifier.secret().clone() }))
    }

    /// Exchanges the code for who it is. `iss` is what the answer says of its origin (RFC 9207): an answer of another provider
    /// is none of this one.
    ///
    /// # Errors
    /// The provider does not answer as expected, or what it says does not hold.
    pub(crate) async fn finish(&self, attempt: &Attempt, code: &str, iss: Option<&str>) -> anyhow::Result<Identity> {
        let metadata = self.metadata().await?;
        match iss {
            Some(iss) => ensure!(iss == metadata.issuer, "the answer is another issuer's"),
            None => ensure!(
                !metadata.authorization_response_iss_parameter_supported,
                "the answer does not say whose it is, which this provider always says"
            ),
        }
        let code = AuthorizationCode::new(code.to_owned());
        let verifier = PkceCodeVerifier::new(attempt.verifier.clone());
        let call = |request: HttpRequest| call(self.http.clone(), request);
        if self.kind == config::ExternalKind::Github {
            let client = self.client::<EmptyExtraTokenFields>(&metadata)?;
            let answer = client.exchange_code(code).set_pkce_verifier(verifier).request_async(&call).await?;
            self.github_user(answer.access_token().secret()).await
        } else {
            let client = self.client::<IdTokenField>(&metadata)?;
            let answer: OidcResponse =
                client.exchange_code(code).set_pkce_verifier(verifier).request_async(&call).await?;
            let id_token = answer.extra_fields().id_token.as_deref().context("no ID token")?;
            self.verify(&metadata, id_token, &attempt.nonce).await
        }
    }

    #[expect(clippy::type_complexity, reason = "the crate's own type, with its endpoints' states")]
    fn client<F: ExtraTokenFields>(
        &self,
        metadata: &Metadata,
    ) -> anyhow::Result<
        oauth2::Client<
            BasicErrorResponse,
            StandardTokenResponse<F, BasicTokenType>,
            BasicTokenIntrospectionResponse,
            oauth2::StandardRevocableToken,
            BasicRevocationErrorResponse,
            oauth2::EndpointSet,
            oauth2::EndpointNotSet,
            oauth2::EndpointNotSet,
            oauth2::EndpointNotSet,
            oauth2::EndpointSet,
        >,
    > {
        let client = Client::<StandardTokenResponse<F, BasicTokenType>>::new(ClientId::new(self.client_id.clone()))
            .set_auth_uri(AuthUrl::new(metadata.authorization_endpoint.clone())?)
            .set_token_uri(TokenUrl::new(metadata.token_endpoint.clone())?)
            .set_redirect_uri(RedirectUrl::new(self.redirect_uri.clone())?);
        Ok(match &self.client_secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())),
            None => client,
        })
    }

    async fn metadata(&self) -> anyhow::Result<Arc<Metadata>> {
        // One asks, the others wait for the answer.
        let mut known = self.known.lock().await;
        if let Some((at, metadata)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let metadata = Arc::new(match self.kind {
            config::ExternalKind::Github => Metadata {
                issuer: self.issuer.clone(),
                authorization_endpoint: format!("{}/login/oauth/authorize", self.issuer),
                token_endpoint: format!("{}/login/oauth/access_token", self.issuer),
                jwks_uri: String::new(),
                authorization_response_iss_parameter_supported: false,
            },
            config::ExternalKind::Oidc | config::ExternalKind::Google => {
                let metadata: Metadata =
                    self.get(&format!("{}/.well-known/openid-configuration", self.issuer), None).await?;
                ensure!(metadata.issuer.trim_end_matches('/') == self.issuer, "its metadata are another issuer's");
                for url in [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri] {
                    check_url(url)?;
                }
                metadata
            }
        });
        *known = Some((tokio::time::Instant::now(), Arc::clone(&metadata)));
        Ok(metadata)
    }

    /// Checks an ID token (OpenID Connect Core section 3.1.3.7).
    async fn verify(&self, metadata: &Metadata, token: &str, nonce: &str) -> anyhow::Result<Identity> {
        let header = decode_header(token).context("read the ID token's header")?;
        let allowed = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
        ensure!(allowed.contains(&header.alg), "an ID token signed with {:?}", header.alg);
        let keys: JwkSet = self.get(&metadata.jwks_uri, None).await?;
        let key = match &header.kid {
            Some(kid) => keys.find(kid),
            None => keys.keys.first().filter(|_| keys.keys.len() == 1),
        };
        let key = DecodingKey::from_jwk(key.context("the ID token's key is not published")?)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.set_issuer(&[&metadata.issuer]);
        validation.set_audience(&[&self.client_id]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<IdClaims>(token, &key, &validation).context("verify the ID token")?.claims;
        ensure!(claims.nonce.as_deref() == Some(nonce), "the ID token belongs to another login");
        match (&claims.aud, &claims.azp) {
            (OneOrMany::Many(many), None) => ensure!(many.len() == 1, "an ID token for several, which names none"),
            (_, Some(azp)) => ensure!(*azp == self.client_id, "the ID token was given to another client"),
            (OneOrMany::One(one), None) => ensure!(*one == self.client_id, "the ID token is another client's"),
        }
        ensure!(!claims.sub.is_empty() && claims.sub.len() <= LONGEST_SUBJECT, "a subject of no decent length");
        let label = claims.email.or(claims.preferred_username).or(claims.name);
        let label = label.unwrap_or_else(|| claims.sub.clone()).chars().filter(|c| !c.is_control()).take(120).collect();
        Ok(Identity { subject: claims.sub, label })
    }

    async fn github_user(&self, token: &str) -> anyhow::Result<Identity> {
        let base = if self.issuer == "https://github.com" { "https://api.github.com" } else { self.issuer.as_str() };
        let user: GithubUser = self.get(&format!("{base}/user"), Some(token)).await?;
        Ok(Identity { subject: user.id.to_string(), label: user.login.chars().take(120).collect() })
    }

    async fn get<T: DeserializeOwned>(&self, url: &str, bearer: Option<&str>) -> anyhow::Result<T> {
        let mut request = self.http.get(url).header("accept", "application/json");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let body = read(request.send().await?.error_for_status()?).await?;
        serde_json::from_slice(&body).with_context(|| format!("read {url}"))
    }
}

/// At most [`LARGEST_ANSWER`] of a body.
async fn read(mut response: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= LARGEST_ANSWER, "the answer is too large");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// One call of the `oauth2` crate.
async fn call(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, CallFailed> {
    let failed = |error: anyhow::Error| CallFailed(format!("{error:#}"));
    let (head, body) = request.into_parts();
    let request = http.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
    // GitHub answers with a form unless it is asked for JSON.
    let response = request.header("accept", "application/json").send().await.map_err(|error| failed(error.into()))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut answer = HttpResponse::new(read(response).await.map_err(failed)?);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// How long a person may take at the provider.
pub(crate) fn attempt_end() -> i64 {
    Utc::now().timestamp() + 900
}
