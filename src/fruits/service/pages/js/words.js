// What the visitor's pages say: [English, French]. In French, a narrow space (U+202F) stands before ? ! : ; and inside « ».

const s = (n, one, many) => (n === 1 ? one : many);

export const WORDS = {
  title: ["Which fruit is this?", "Quel est ce fruit\u202f?"],
  heading: ["Which fruit is this?", "Quel est ce fruit\u202f?"],
  lede: [
    "Photograph it. A second later you know its name, and how sure that is.",
    "Photographiez-le. Une seconde plus tard, vous savez son nom, et à quel point c’est sûr.",
  ],
  skip: ["To the answers", "Aller aux réponses"],
  languages: ["Language", "Langue"],
  picker: ["Your photo", "Votre photo"],
  take: ["Take a photo", "Prendre une photo"],
  choose: ["Choose photos", "Choisir des photos"],
  hint: ["or drop them here, or paste one", "ou déposez-les ici, ou collez-en une"],
  drop: ["Let go: the photos will be looked at", "Lâchez\u202f: les photos seront regardées"],
  keep: ["Keep my photo to improve this", "Garder ma photo pour améliorer ce service"],
  keep_more: [
    "Only then is it stored: without place or date, and you can delete it.",
    "Alors seulement elle est conservée\u202f: sans lieu ni date, et vous pouvez l’effacer.",
  ],
  keep_device: ["Nothing is sent, so nothing is kept.", "Rien n’est envoyé, donc rien n’est gardé."],
  device: ["On this device only", "Sur cet appareil seulement"],
  device_more: [
    ({ size }) => `No photo leaves it, and it works offline. Loads ${size} once.`,
    ({ size }) => `Aucune photo n’en sort, et cela marche hors ligne. Charge ${size} une fois.`,
  ],
  device_loading: [({ share }) => `Loading: ${share}`, ({ share }) => `Chargement\u202f: ${share}`],
  device_ready: [
    "Ready: your photos stay on this device.",
    "Prêt\u202f: vos photos restent sur cet appareil.",
  ],
  device_failed: [
    "That did not work on this device; photos are sent to the service.",
    "Cela n’a pas marché sur cet appareil\u202f; les photos sont envoyées au service.",
  ],
  device_offline: [
    "There is no connection to load it; try again when there is.",
    "Pas de connexion pour le charger\u202f; réessayez quand il y en a une.",
  ],
  answers: ["Answers", "Réponses"],
  about: ["What happens to a photo", "Ce que devient une photo"],
  about_small: [
    "This page makes it small before it is sent, and leaves place, date and camera behind.",
    "Cette page la réduit avant de l’envoyer, et laisse de côté lieu, date et appareil.",
  ],
  about_not_kept: [
    "It is looked at and forgotten, unless you tick “keep”.",
    "Elle est regardée puis oubliée, sauf si vous cochez «\u202fgarder\u202f».",
  ],
  about_sure: [
    "The name is given only as exactly as it is certain; else the page says “not sure”.",
    "Le nom n’est donné que dans la mesure où il est certain\u202f; sinon la page dit «\u202fpas sûr\u202f».",
  ],
  footer: [
    "Names of fruit only: not advice on what may be eaten.",
    "Des noms de fruits seulement\u202f: pas un avis sur ce qui se mange.",
  ],

  looking: ["Looking…", "Je regarde…"],
  photo_number: [({ n }) => `Your photo ${n}`, ({ n }) => `Votre photo ${n}`],
  unsure: ["Not sure", "Pas sûr"],
  unknown: ["None of the things I know", "Rien de ce que je connais"],
  sure_variety: [({ share }) => `${share} sure of the variety`, ({ share }) => `variété sûre à ${share}`],
  sure_name: [({ share }) => `${share} sure`, ({ share }) => `sûr à ${share}`],
  sure_kind: [({ share }) => `${share} sure of the kind, not of the variety`, ({ share }) => `espèce sûre à ${share}, pas la variété`],
  unsure_more: ["It may be one of these:", "C’est peut-être l’un de ceux-ci\u202f:"],
  unknown_more: [
    "This looks like nothing I have learnt. What comes nearest:",
    "Cela ne ressemble à rien de ce que j’ai appris. Le plus proche\u202f:",
  ],
  three_best: ["Most likely", "Le plus probable"],
  retake: ["To try again", "Pour réessayer"],
  retake_plain: [
    "One fruit alone, filling the picture, on a plain ground, in daylight.",
    "Un seul fruit, qui remplit l’image, sur un fond uni, à la lumière du jour.",
  ],
  small: ["The photo is very small: go closer, or send the original.", "La photo est très petite\u202f: rapprochez-vous, ou envoyez l’original."],
  dark: ["The photo is dark: try again with more light.", "La photo est sombre\u202f: réessayez avec plus de lumière."],
  blurred: [
    "The photo is blurred: hold still, tap to focus.",
    "La photo est floue\u202f: ne bougez pas, touchez l’écran pour faire la mise au point.",
  ],
  alike: ["Photos that look alike", "Photos qui lui ressemblent"],
  on_device: ["Answered on this device: nothing was sent.", "Répondu sur cet appareil\u202f: rien n’a été envoyé."],
  kept: ["Your photo is kept.", "Votre photo est gardée."],
  not_kept: ["Your photo was not kept, only the answer.", "Votre photo n’a pas été gardée, seulement la réponse."],
  announced: [({ name, sure }) => `${name}: ${sure}`, ({ name, sure }) => `${name}\u202f: ${sure}`],

  is_right: ["Is that right?", "Est-ce juste\u202f?"],
  do_you_know: ["Do you know what it is?", "Savez-vous ce que c’est\u202f?"],
  indeed: ["None of these, indeed", "Rien de tout ça, en effet"],
  name_it: ["Name it", "Le nommer"],
  yes: ["Yes", "Oui"],
  no: ["No", "Non"],
  which: ["Which one is it?", "Lequel est-ce\u202f?"],
  which_hint: ["Choose from the list or write another name", "Choisissez dans la liste ou écrivez un autre nom"],
  any_variety: ["any variety", "toute variété"],
  found: [({ n }) => s(n, "1 in the list", `${n} in the list`), ({ n }) => (n < 2 ? `${n} dans la liste` : `${n} dans la liste`)],
  not_in_list: ["Not in the list; it is sent as you wrote it.", "Pas dans la liste\u202f; envoyé comme vous l’avez écrit."],
  send: ["Send", "Envoyer"],
  cancel: ["Cancel", "Annuler"],
  thanks_right: ["Thank you, good to know.", "Merci, c’est bon à savoir."],
  thanks_wrong: [({ label }) => `Thank you: “${label}” is noted.`, ({ label }) => `Merci\u202f: «\u202f${label}\u202f» est noté.`],
  thanks_unnamed: ["Thank you, noted as wrong.", "Merci, noté comme faux."],
  delete_it: ["Delete", "Effacer"],
  delete_link: ["Link to delete it later", "Lien pour l’effacer plus tard"],
  deleted: ["Deleted. Nothing is left of it here.", "Effacé. Il n’en reste rien ici."],

  again: ["Try again", "Réessayer"],
  waiting: [({ n }) => `Trying again in ${n} s`, ({ n }) => `Nouvel essai dans ${n}\u202fs`],
  offline: [
    "There is no connection. The photo waits here until there is.",
    "Pas de connexion. La photo attend ici qu’il y en ait une.",
  ],
  offline_notice: ["You are offline.", "Vous êtes hors ligne."],
  offline_device: ["You are offline; photos are looked at on this device.", "Vous êtes hors ligne\u202f; les photos sont regardées sur cet appareil."],
  unreadable: [
    "This cannot be opened as a photo. JPEG, PNG and WebP always can.",
    "Ceci ne s’ouvre pas comme une photo. JPEG, PNG et WebP s’ouvrent toujours.",
  ],
  too_many: [({ n }) => `At most ${n} photos at once: the first ${n} are looked at.`, ({ n }) => `Au plus ${n} photos à la fois\u202f: les ${n} premières sont regardées.`],
  no_photo: ["There was no photo in that.", "Il n’y avait pas de photo là-dedans."],
  went_wrong: ["Something went wrong; try again.", "Une erreur est survenue\u202f; réessayez."],

  delete_title: ["Delete a photo", "Effacer une photo"],
  delete_text: [
    "One press, and nothing is left of it here: not the photo, not the answer, not what was measured of it.",
    "Une pression, et il n’en reste rien ici\u202f: ni la photo, ni la réponse, ni ce qui en a été mesuré.",
  ],
  delete_now: ["Delete it", "L’effacer"],
  delete_broken: [
    "This link is not whole: copy it again, up to its last character.",
    "Ce lien n’est pas entier\u202f: recopiez-le, jusqu’à son dernier caractère.",
  ],
  delete_unknown: [
    "There is nothing here under this link: it was deleted already, or its time was over.",
    "Il n’y a rien ici sous ce lien\u202f: c’est déjà effacé, ou son temps était passé.",
  ],
  back: ["Back to the first page", "Retour à la première page"],
};
