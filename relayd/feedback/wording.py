"""Words that tell one kind of returned mail from another, in the languages that they come in.

Each table is one regular expression, a line per meaning or language.  They are searched in subjects and openings only;
nothing in them repeats without a bound.
"""

import re


def _any(lines: str, before: str = "", after: str = "") -> re.Pattern[str]:
    """A pattern of the lines' alternatives."""
    return re.compile(
        f"{before}(?:{'|'.join(filter(None, map(str.strip, lines.split(chr(10)))))}){after}", re.IGNORECASE
    )


# Who speaks is a mail system.  In a From field.
DAEMON = _any(r"""
    mailer[-_ ]?daemon|post ?master|mdaemon|mailer@|mail[-. ]?deliver|deliver\w{0,4} (?:sub)?system
    mail(?:er)? ?(?:system|server|gateway)
    internet mail delivery|microsoft exchange|system ?administrator|mail ?admin(?:istrator)?\b
    bounce[-_ ]?(?:notif|handler|daemon)
    почтов\w{2,4} (?:систем|служб|робот|сервер)|メール(?:サーバ|システム|配信)|邮件(?:系统|服务)|郵件(?:系統|伺服)
""")

# Somebody was not reached.
FAILED = _any(r"""
    undeliver|un-deliver|non-?deliver|not (?:be )?deliver|not yet (?:been )?deliver
    returned (?:to sender|e?-?mail|message|unread)
    return(?:ed|ing) (?:your )?(?:mail|message)|did not reach|unable to (?:deliver|reach|send|relay)|no longer in use
    deliver\w{0,4} (?:has |have |had )?(?:status )?(?:notification )?\(?(?:fail|error|problem|abort|incomplete|delay)
    fail(?:ed|ure)? (?:to )?(?:notice|deliver|permanent)|(?:mail|message) (?:system |delivery )?(?:error|failure)
    processing error
    (?:could|can|was|were|ha(?:s|ve))(?: ?no|n')t(?: yet)?(?: be(?:en)?| able to)? (?:deliver|sen[dt]|reach|process)
    bounced?\b|rejected|permanent(?:ly)? (?:fail|error|fatal)|(?:trouble|problem) delivering|error sending
    has been delayed|are not (?:a )?member
    (?:user|recipient|mailbox|address|host|domain)\b.{0,30}\b(?:unknown|not (?:found|exist|listed)|invalid|unavailable)
    (?:user|recipient|mailbox|account|folder|quota)\b.{0,30}\b(?:full|disabled|over ?quota|exceed)|message looping
    (?:unknown|invalid|no such|bad|illegal) (?:user|recipient|mailbox|address|account|host|domain|final delivery)
    does(?:n'| no)t (?:exist|like recipient)|delivery to the following|following (?:recipient|address|error)
    unzustellbar|nicht zugestellt|nicht zustell|konnte nicht|fehlgeschlagen|unbekannter? (?:empf|benutz)
    postfach.{0,20}voll
    non[- ]?remis|pas pu|non d[eé]livr|[eé]chec|n'existe pas|introuvable|non recens|bo[iî]te.{0,20}pleine|impossible d
    (?:podido|pudo|puede).{0,12} entreg|no entregad|no existe|error de entrega|devuelto|destinatario desconocido
    buz[oó]n lleno
    n[aã]o (?:p[oô]de|foi|entreg|existe)|falha (?:na|de|no)|devolvid|impossibile|non (?:[eè] stat|consegnat|esiste)
    mancat[ao] (?:cons|rec)
    nie dostarczon|niedostarczon|nie istnieje|nie m[oó]g[lł]|nedoru[cč]en|nelze doru|k[eé]zbes[ií]thetetlen
    teslim edilem|iletilem
    onbestelbaar|niet (?:worden )?(?:bezorgd|afgeleverd)|kunde inte|kunne ikke|inte levereras|ei voitu toimittaa
    недоставл|не (?:было |может быть |удалось |был[ао]? |удается )?(?:достав|отправ|найден|существу)|невозможно
    возвра[щт]|ошибк\w (?:при )?достав|переполнен|отклонен|не може бути|неможливо|не доставлен
    配信(?:でき|され|不能|エラー|失敗)|送信でき|届け|宛先.{0,10}(?:不明|見つか)|エラーメール|存在しません|見つかりません
    退信|投递(?:失败|错误)|投遞|无法(?:送达|投递|发送)|無法|发送失败|不存在|邮箱已满|반송|전송 ?실패|배달|찾을 수 없
""")

# Somebody was not reached yet; it goes on being tried.
DELAYED = _any(r"""
    \(delay(?:ed)?\)|delayed? (?:mail|message|deliver)|delayed .{0,20}hours
    (?:message|mail|delivery)\b.{0,40}\bdelayed
    not yet (?:been )?deliver|will (?:be )?(?:retr|continue|keep trying|try again)|still (?:being|trying|in the queue)
    delivery incomplete|warning message only|warning only|warning: (?:could not send|message)|no action is required
    temporary (?:failure report|problem)|delivery attempts will continue|not be delivered (?:for more|yet)
    notification: (?:warning|delay)|verz[oö]ger|noch nicht zugestellt|retard[eé]|diff[eé]r[eé]|pas encore
    demorad|retrasad|aplazad|atrasad|ritardat|op[oó][zź]nion|zpo[zž]d|gecikt|vertraagd|f[oö]rsena
    задерж|отложен|ещ[её] не достав|пока не достав|затрим|配信.{0,10}遅|遅延|延迟|延遲|지연
""")
# What a reporter says when it has given up, whatever it says of delays beside.
GIVEN_UP = _any(r"""
    permanent (?:fail|err|fatal)|failed permanently|\(failure\)|giv(?:ing|en) up|not going to try
    no longer (?:try|attempt)|returned mail|undeliver|fatal|aborted
    return(?:ing|ed) (?:message|mail|to)|has been returned|failure notice|\bexpired\b|endg[uü]ltig|d[eé]finiti
    окончательно
""")

# An automatic answer.  The start of a subject.
AUTOMATIC = _any(
    r"""
    auto(?:mat\w{0,8})?[-_ ]?(?:re(?:ply|sp\w{0,8})|answer|generated|ack\w{0,14})|auto ?:|autoreply
    automated (?:mess|e?-?mail)
    out[- ]of[- ](?:the[- ])?office|ooo\b|vacation
    (?:i am |i'm |currently )?(?:on (?:annual )?(?:vacation|holiday|leave)|away\b)
    out of office|absen(?:ce|t)\b|thank you for (?:your (?:e?-?mail|message|enquiry|inquiry)|contacting)
    (?:we|i) (?:have )?received
    (?:your )?(?:request|ticket|enquiry) (?:has been )?(?:received|#|\[)|read:|not read:|(?:read|delivery) receipt
    disposition notification
    automatis(?:che|cher?|k|kt|ch)? |autom\. |abwesen|(?:ich )?(?:bin )?(?:nicht im (?:b[uü]ro|haus)|im urlaub)
    urlaub|gelesen:|lesebest|eingangsbest
    (?:r[eé]ponse|message) automatique|absen\w{0,3} du bureau|en cong[eé]|lu ?:|accus[eé] de (?:lecture|r[eé]ception)
    respuesta autom|(?:respuesta )?(?:de )?fuera de (?:la )?oficina|ausen\w{2,4}\b|de vacaciones|resposta autom
    aus[eê]ncia|f[eé]rias
    le[ií]do:
    risposta automatica|fuori (?:sede|ufficio)|assen\w{2}\b|in ferie|odpowied[zź] automat|automatyczna|poza biurem
    nieobecn
    automatick|mimo kancel|automatikus|otomatik|ofis d[ıi][sş][ıi]nda|autosvar|fr[aå]nvaro|frav[aæ]r|automaattinen
    poissa\b|afwezig
    r[aă]spuns autom
    авто(?:матич\w{2,6})?[- ]?(?:ответ|сообщ|уведомл)|вне офиса|(?:я )?в отпуске|отпуск|отсутств|відсутн|нет на месте
    автоматичн
    прочитано|прочтено|отч[её]т о прочт|ваше (?:письмо|обращение|сообщение) (?:получено|принято|зарегистр)
    自動(?:応答|返信|回覆|回复)|不在|休暇|自动(?:回复|答复)|外出|已读|開封済み|자동 ?(?:응답|회신|답장)|부재 ?중
    """,
    before=r"^\W{0,6}(?:(?:re|aw|sv|vs|antw|отв|ответ) ?: {0,3})?[\[(]?",
)
# Of a person's answer, which no mail system gives.
ANSWER = re.compile(r"^\W{0,4}(?:re|aw|sv|antw|fwd?|wg|отв|ответ|回复|答复) ?(?:\[\d{1,3}\])?[:：]", re.IGNORECASE)
AUTOMATIC_FIELDS = frozenset(
    [
        *("x-autoreply", "x-auto-reply", "x-autoreply-from", "x-autorespond", "x-autoresponder", "x-auto-respond"),
        *("x-autogenerated", "x-mail-autoreply", "x-amazon-auto-reply", "x-vacation", "x-ezmlm-autoreply"),
        *("x-qq-autoreply", "x-yandex-autoreply", "auto-reply", "x-out-of-office"),
    ]
)

CHALLENGE = _any(r"""
    (?:please )?(?:confirm|verify) (?:your (?:e-?mail|message|address|identity)|that you)|spam ?arrest|boxbe
    подтвердите отправку
    (?:e-?mail|message) requires (?:verification|confirmation)|(?:message|sender) verification
    (?:waiting for|awaiting) your (?:confirmation|verification)|confirmation (?:required|needed)
""")
CHALLENGE_FIELDS = frozenset(["x-tmda-fingerprint", "x-asg-challenge", "x-boxbe-challenge"])

UNSUBSCRIBE = _any(
    "unsubscribe|opt[- ]?out|отпис|abmelden|abbestellen|désabonn|desinscri",
    before=r"^\W{0,4}(?:list-)?",
    after=r"\w{0,8}\b",
)
COMPLAINT = _any("complaint about message from|abuse report\\b|email feedback report for", before=r"^\s{0,4}")
