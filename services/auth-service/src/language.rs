//! The words of the pages, in the languages that they speak. A word that one language lacks does not compile.

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    #[default]
    English,
    French,
}

impl Language {
    /// The best of those that the client names (`ui_locales`, in its order), else of those that the browser does
    /// (`Accept-Language`, by weight), else English.
    pub fn choose(ui_locales: Option<&str>, accept_language: Option<&str>) -> Self {
        let named = ui_locales.into_iter().flat_map(str::split_ascii_whitespace).find_map(Self::of);
        named.or_else(|| Self::accepted(accept_language.unwrap_or_default())).unwrap_or_default()
    }

    fn accepted(header: &str) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        for range in header.split(',') {
            let (tag, weight) = range.split_once(';').unwrap_or((range, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if let Some(language) = Self::of(tag.trim()).filter(|_| weight > 0.0)
                && best.is_none_or(|(before, _)| weight > before)
            {
                best = Some((weight, language));
            }
        }
        best.map(|(_, language)| language)
    }

    fn of(tag: &str) -> Option<Self> {
        let primary = tag.split(['-', '_']).next().unwrap_or_default();
        if primary.eq_ignore_ascii_case("fr") {
            Some(Self::French)
        } else if primary.eq_ignore_ascii_case("en") {
            Some(Self::English)
        } else {
            None
        }
    }

    /// For the `lang` attribute.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::French => "fr",
        }
    }

    /// All words.
    pub fn words(self) -> &'static Words {
        match self {
            Self::English => &ENGLISH,
            Self::French => &FRENCH,
        }
    }
}

/// Everything that the pages say.
#[derive(Debug)]
pub struct Words {
    pub problem: &'static str,
    pub log_in: &'static str,
    pub log_in_to: &'static str,
    pub username: &'static str,
    pub password: &'static str,
    pub invalid_credentials: &'static str,
    pub too_many: &'static str,
    pub unavailable: &'static str,
    pub form_outdated: &'static str,
    pub or: &'static str,
    pub log_in_with: &'static str,
    pub second_factor: &'static str,
    pub second_factor_hint: &'static str,
    pub second_factor_passkey_hint: &'static str,
    pub with_passkey: &'static str,
    pub invalid_passkey: &'static str,
    pub code: &'static str,
    pub recovery_code: &'static str,
    pub invalid_factor: &'static str,
    pub next: &'static str,
    pub consent: &'static str,
    pub wants_to: &'static str,
    pub logged_in_as: &'static str,
    pub allow: &'static str,
    pub deny: &'static str,
    pub scope_openid: &'static str,
    pub scope_profile: &'static str,
    pub scope_email: &'static str,
    pub scope_offline: &'static str,
    pub scope_permission: &'static str,
    pub scope_all: &'static str,
    pub leads_to: &'static str,
    pub device: &'static str,
    pub device_hint: &'static str,
    pub user_code: &'static str,
    pub device_unknown: &'static str,
    pub device_confirm: &'static str,
    pub device_warning: &'static str,
    pub device_allowed: &'static str,
    pub device_denied: &'static str,
    pub close: &'static str,
    pub log_out: &'static str,
    pub log_out_question: &'static str,
    pub logged_out: &'static str,
    pub logged_in: &'static str,
    pub request_failed: &'static str,
    pub request_failed_hint: &'static str,
    pub unknown_client: &'static str,
    pub unknown_redirect: &'static str,
    pub unknown_request: &'static str,
    pub external_failed: &'static str,
    pub external_unlinked: &'static str,
    pub link: &'static str,
    pub link_question: &'static str,
    pub linked: &'static str,
    pub linked_elsewhere: &'static str,
    pub go_on: &'static str,
    pub go_on_hint: &'static str,
}

static ENGLISH: Words = Words {
    problem: "There is a problem",
    log_in: "Log in",
    log_in_to: "to go on to",
    username: "Username",
    password: "Password",
    invalid_credentials: "The username or the password is wrong.",
    too_many: "Too many attempts. Wait a few minutes, then try again.",
    unavailable: "This does not work at the moment. Try again soon.",
    form_outdated: "This page was open for too long, or in another window. Please try again.",
    or: "or",
    log_in_with: "Log in with",
    second_factor: "Confirm that it is you",
    second_factor_hint: "Enter the code that your authenticator app shows, or one of your recovery codes.",
    second_factor_passkey_hint: "Use your passkey, or enter one of your recovery codes.",
    with_passkey: "Use a passkey",
    invalid_passkey: "This passkey is not known here, or the page was open for too long. Please try again.",
    code: "Code from the app",
    recovery_code: "Recovery code",
    invalid_factor: "This code is wrong, or was used before.",
    next: "Continue",
    consent: "Allow access?",
    wants_to: "wants to:",
    logged_in_as: "You are logged in as",
    allow: "Allow",
    deny: "Deny",
    scope_openid: "know who you are",
    scope_profile: "read your name",
    scope_email: "read your e-mail address",
    scope_offline: "keep its access while you are away",
    scope_permission: "use your permission",
    scope_all: "use all the permissions that you and this application have in common",
    leads_to: "You will be sent to",
    device: "Connect a device",
    device_hint: "Enter the code that your device shows.",
    user_code: "Code",
    device_unknown: "This code is unknown or has expired. Check it, or start again on the device.",
    device_confirm: "Connect this device?",
    device_warning: "Go on only if you started this yourself and the device in front of you shows this code:",
    device_allowed: "The device is connected.",
    device_denied: "The device was not connected.",
    close: "You can close this page.",
    log_out: "Log out",
    log_out_question: "Do you want to log out?",
    logged_out: "You are logged out.",
    logged_in: "You are logged in.",
    request_failed: "This link does not work",
    request_failed_hint: "The application that sent you here made a mistake. Go back to it and try again; if this happens again, tell those who run it.",
    unknown_client: "The application is not known here.",
    unknown_redirect: "The application asks to send you to an address that is not registered for it.",
    unknown_request: "The request was used before or has expired.",
    external_failed: "The login at the other provider did not succeed.",
    external_unlinked: "This account is not linked yet. Log in once with your password to link it.",
    link: "Link an account",
    link_question: "Do you want to log in with this account from now on?",
    linked: "The account is linked.",
    linked_elsewhere: "This account is linked to somebody else, or you have linked another one of this provider.",
    go_on: "Continue",
    go_on_hint: "You are being sent back to the application.",
};

static FRENCH: Words = Words {
    problem: "Il y a un problème",
    log_in: "Connexion",
    log_in_to: "pour continuer vers",
    username: "Identifiant",
    password: "Mot de passe",
    invalid_credentials: "L’identifiant ou le mot de passe est incorrect.",
    too_many: "Trop de tentatives. Attendez quelques minutes, puis réessayez.",
    unavailable: "Cela ne fonctionne pas pour le moment. Réessayez bientôt.",
    form_outdated: "Cette page est restée ouverte trop longtemps, ou dans une autre fenêtre. Veuillez réessayer.",
    or: "ou",
    log_in_with: "Se connecter avec",
    second_factor: "Confirmez que c’est bien vous",
    second_factor_hint: "Saisissez le code affiché par votre application d’authentification, ou l’un de vos codes de secours.",
    second_factor_passkey_hint: "Utilisez votre clé d’accès, ou saisissez l’un de vos codes de secours.",
    with_passkey: "Utiliser une clé d’accès",
    invalid_passkey: "Cette clé d’accès n’est pas connue ici, ou la page est restée ouverte trop longtemps. Veuillez réessayer.",
    code: "Code de l’application",
    recovery_code: "Code de secours",
    invalid_factor: "Ce code est incorrect, ou a déjà servi.",
    next: "Continuer",
    consent: "Autoriser l’accès ?",
    wants_to: "souhaite :",
    logged_in_as: "Vous êtes connecté en tant que",
    allow: "Autoriser",
    deny: "Refuser",
    scope_openid: "savoir qui vous êtes",
    scope_profile: "lire votre nom",
    scope_email: "lire votre adresse e-mail",
    scope_offline: "garder son accès en votre absence",
    scope_permission: "utiliser votre permission",
    scope_all: "utiliser toutes les permissions que vous et cette application avez en commun",
    leads_to: "Vous serez dirigé vers",
    device: "Connecter un appareil",
    device_hint: "Saisissez le code affiché par votre appareil.",
    user_code: "Code",
    device_unknown: "Ce code est inconnu ou a expiré. Vérifiez-le, ou recommencez sur l’appareil.",
    device_confirm: "Connecter cet appareil ?",
    device_warning: "Ne continuez que si vous êtes à l’origine de cette demande et si l’appareil devant vous affiche ce code :",
    device_allowed: "L’appareil est connecté.",
    device_denied: "L’appareil n’a pas été connecté.",
    close: "Vous pouvez fermer cette page.",
    log_out: "Déconnexion",
    log_out_question: "Voulez-vous vous déconnecter ?",
    logged_out: "Vous êtes déconnecté.",
    logged_in: "Vous êtes connecté.",
    request_failed: "Ce lien ne fonctionne pas",
    request_failed_hint: "L’application qui vous a envoyé ici a fait une erreur. Retournez-y et réessayez ; si cela se reproduit, prévenez ses responsables.",
    unknown_client: "Cette application n’est pas connue ici.",
    unknown_redirect: "L’application demande de vous diriger vers une adresse qui n’est pas enregistrée pour elle.",
    unknown_request: "La demande a déjà servi ou a expiré.",
    external_failed: "La connexion chez l’autre fournisseur n’a pas abouti.",
    external_unlinked: "Ce compte n’est pas encore lié. Connectez-vous une fois avec votre mot de passe pour le lier.",
    link: "Lier un compte",
    link_question: "Voulez-vous désormais vous connecter avec ce compte ?",
    linked: "Le compte est lié.",
    linked_elsewhere: "Ce compte est lié à quelqu’un d’autre, ou vous en avez lié un autre de ce fournisseur.",
    go_on: "Continuer",
    go_on_hint: "Vous êtes redirigé vers l’application.",
};
