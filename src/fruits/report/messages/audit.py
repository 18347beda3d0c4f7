"""What the page of an audit says: always a suspicion, never a verdict."""

from __future__ import annotations

EN = {
    # Headline
    "audit_title": "fruits: audit of photos",
    "audit_tagline": "audit of photos",
    "audit_flagged": "of {photos} {photos:photo|photos} {n:deserves|deserve} a look",
    "audit_findings": "{n:finding|findings} in {photos} {photos:photo|photos}",
    "audit_lede": "{photos} {photos:photo|photos} with {labels} {labels:label|labels}, looked at in {total}.",
    "fact_network": "Network",
    "network_at": "{name}, {size} pixels",
    "audit_meaning": "What this page says",
    "audit_suspicion": "Which photos stand out, and how. That is a reason to look, not a verdict: unusual photos may be "
    "the ones worth having. Nothing was changed, moved or deleted.",
    "audit_all": "Each section shows the most striking first. All of them are in <code>findings.parquet</code>, beside "
    "this page.",
    # Overview
    "overview": "At a glance",
    "overview_intro": "A photo can be in several lines.",
    "sort": "Finding",
    "groups_column": "Groups",
    "across_splits": "across splits",
    "across_labels": "across labels",
    "column_across_splits": "Across splits",
    "column_across_labels": "Across labels",
    "sort_exact_duplicate": "Exact duplicates",
    "sort_near_duplicate": "Near-duplicates",
    "sort_label": "Doubtful labels",
    "sort_blurred": "Blurred photos",
    "sort_dark": "Dark photos",
    "sort_odd_size": "Odd sizes",
    "sort_unreadable": "Unreadable files",
    "about_exact_duplicate": "The same photo, more than once.",
    "about_near_duplicate": "Photos so alike that one may be a retouched copy of the other, or the next frame of a film.",
    "about_label": "Photos that look less like their own label than like another, with the probability of each.",
    "about_blurred": "Less sharp than nearly all others, as the network sees them.",
    "about_dark": "Darker than nearly all others.",
    "about_odd_size": "Much smaller, larger or narrower than the others.",
    "about_unreadable": "Files that give no picture.",
    "advice": "What to do",
    "advice_exact_duplicate": "One of each is enough. Across splits, the test asks about a photo that was learned; across "
    "labels, one of the labels may be wrong.",
    "advice_near_duplicate": "Keep photos that belong together on one side of the split: name their group in a manifest "
    "(column <code>group</code>). Across labels, check whether both labels are right.",
    "advice_label": "Compare with other photos of both labels before you correct anything: here it may be the recogniser "
    "that is mistaken, above all between varieties that look alike.",
    "advice_blurred": "Look for a sharper one of the same thing. If people will send photos like these, some of them are "
    "worth keeping.",
    "advice_dark": "Look for one with more light. If people will send photos like these, some of them are worth keeping.",
    "advice_odd_size": "Look for the original of a very small photo. A very narrow one may be a cutting or a screenshot.",
    "advice_unreadable": "Fetch the file again from where it came from, or remove it. A run sets it aside for the same "
    "reason.",
    "audit_none": "Nothing of this sort was found.",
    "found_groups": "{n} {n:group|groups} of {photos} {photos:photo|photos}",
    "found_photos": "{n} {n:photo|photos}",
    "found_across_splits": "{n} across splits",
    "found_across_labels": "{n} across labels",
    "found_first": "Here are {shown} of {total}.",
    "group_photos": "{n} {n:photo|photos}",
    "group_shown": "{shown} of {n} photos",
    "group_distance": "distance {value}",
    "says": "says",
    "looks_like": "looks like",
    "sharpness": "sharpness {value}, limit {limit}",
    "brightness": "brightness {value}, limit {limit}",
    "pixels": "{width} × {height} pixels",
    "why_small": "very small",
    "why_large": "very large",
    "why_narrow": "very narrow",
}

FR = {
    "audit_title": "fruits : audit de photos",
    "audit_tagline": "audit de photos",
    "audit_flagged": "{n:photo|photos} sur {photos} {n:mérite|méritent} un coup d’œil",
    "audit_findings": "{n:constat|constats} sur {photos} {photos:photo|photos}",
    "audit_lede": "{photos} {photos:photo|photos} pour {labels} {labels:étiquette|étiquettes}, passées en revue en {total}.",
    "fact_network": "Réseau",
    "network_at": "{name}, {size} pixels",
    "audit_meaning": "Ce que dit cette page",
    "audit_suspicion": "Quelles photos sortent de l’ordinaire, et en quoi. C’est une raison de regarder, pas un verdict : "
    "les photos inhabituelles sont parfois les plus précieuses. Rien n’a été modifié, déplacé ni supprimé.",
    "audit_all": "Chaque section montre d’abord le plus frappant. Tout se trouve dans <code>findings.parquet</code>, à "
    "côté de cette page.",
    "overview": "En un coup d’œil",
    "overview_intro": "Une photo peut figurer sur plusieurs lignes.",
    "sort": "Constat",
    "groups_column": "Groupes",
    "across_splits": "rôles différents",
    "across_labels": "étiquettes différentes",
    "column_across_splits": "Rôles différents",
    "column_across_labels": "Étiquettes différentes",
    "sort_exact_duplicate": "Doublons exacts",
    "sort_near_duplicate": "Quasi-doublons",
    "sort_label": "Étiquettes douteuses",
    "sort_blurred": "Photos floues",
    "sort_dark": "Photos sombres",
    "sort_odd_size": "Tailles inhabituelles",
    "sort_unreadable": "Fichiers illisibles",
    "about_exact_duplicate": "La même photo, plus d’une fois.",
    "about_near_duplicate": "Des photos si semblables que l’une peut être une copie retouchée de l’autre, ou l’image "
    "suivante d’un film.",
    "about_label": "Des photos qui ressemblent moins à leur étiquette qu’à une autre, avec la probabilité de chacune.",
    "about_blurred": "Moins nettes que presque toutes les autres, telles que le réseau les voit.",
    "about_dark": "Plus sombres que presque toutes les autres.",
    "about_odd_size": "Bien plus petites, plus grandes ou plus étroites que les autres.",
    "about_unreadable": "Des fichiers dont on ne tire pas d’image.",
    "advice": "Que faire",
    "advice_exact_duplicate": "Une seule de chaque suffit. Si les rôles diffèrent, le test interroge sur une photo apprise ; "
    "si les étiquettes diffèrent, l’une d’elles est peut-être fausse.",
    "advice_near_duplicate": "Laisser du même côté les photos qui vont ensemble : donner leur groupe dans un manifeste "
    "(colonne <code>group</code>). Si les étiquettes diffèrent, vérifier que les deux sont justes.",
    "advice_label": "Comparer avec d’autres photos des deux étiquettes avant de corriger quoi que ce soit : c’est peut-être "
    "l’outil qui se trompe, surtout entre variétés qui se ressemblent.",
    "advice_blurred": "Chercher une photo plus nette de la même chose. Si l’on doit recevoir des photos comme celles-ci, "
    "mieux vaut en garder quelques-unes.",
    "advice_dark": "Chercher une photo mieux éclairée. Si l’on doit recevoir des photos comme celles-ci, mieux vaut en "
    "garder quelques-unes.",
    "advice_odd_size": "Chercher l’original d’une photo très petite. Une photo très étroite est peut-être un détail découpé "
    "ou une capture d’écran.",
    "advice_unreadable": "Reprendre le fichier là d’où il vient, ou l’enlever. Une exécution le laisse de côté pour la même "
    "raison.",
    "audit_none": "Rien de ce genre n’a été trouvé.",
    "found_groups": "{n} {n:groupe|groupes} de {photos} {photos:photo|photos}",
    "found_photos": "{n} {n:photo|photos}",
    "found_across_splits": "{n} aux rôles différents",
    "found_across_labels": "{n} aux étiquettes différentes",
    "found_first": "Ici, {shown} sur {total}.",
    "group_photos": "{n} {n:photo|photos}",
    "group_shown": "{shown} photos sur {n}",
    "group_distance": "distance {value}",
    "says": "étiquetée",
    "looks_like": "ressemble à",
    "sharpness": "netteté {value}, limite {limit}",
    "brightness": "clarté {value}, limite {limit}",
    "pixels": "{width} × {height} pixels",
    "why_small": "très petite",
    "why_large": "très grande",
    "why_narrow": "très étroite",
}
