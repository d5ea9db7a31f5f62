#include <openssl/sha.h>
#include <pthread.h>
#include <stdatomic.h>
#include <zstd.h>

#include "base/clock.h"
#include "store-service/blob/blob.h"

/* On 3 KB messages, with the dictionary: level 1 takes 16 us and packs to 1/2.30, level 3 takes 22 us for 1/2.33. */
#define LEVEL 1

/*
 * What most messages have in common, the commonest last (nearest to the data, so cheapest to refer to). Bodies are
 * stored under it: its text never changes; another one gets another codec number.
 */
static const char header_dictionary[] =
    "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\" \"http://www.w3.org/TR/xhtml1/DTD/"
    "xhtml1-transitional.dtd\">\r\n<html xmlns=\"http://www.w3.org/1999/xhtml\">\r\n<head>\r\n<meta http-equiv=\"Content-Type\""
    " content=\"text/html; charset=UTF-8\" />\r\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1.0\" />"
    "\r\n<title></title>\r\n<style type=\"text/css\">\r\n</style>\r\n</head>\r\n<body style=\"margin: 0; padding: 0;\">\r\n"
    "<table border=\"0\" cellpadding=\"0\" cellspacing=\"0\" width=\"100%\" style=\"border-collapse: collapse;\">\r\n<tr>\r\n"
    "<td align=\"center\" valign=\"top\" style=\"font-family: Arial, Helvetica, sans-serif; font-size: 14px; color: #333333;\">"
    "</td>\r\n</tr>\r\n</table>\r\n<div dir=\"ltr\"><br></div>\r\n<p>&nbsp;</p>\r\n<a href=\"https://www.</a>\r\n</body>\r\n"
    "</html>\r\nX-Spam-Status: No, score=\r\nX-Google-DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=1e100.net;"
    " s=20230601;\r\nX-Gm-Message-State: \r\nX-Received: by 2002:a05:\r\nReceived-SPF: pass client-ip=\r\n"
    "Authentication-Results: mx.example.com; dkim=pass header.i=@gmail.com header.s= header.b=; spf=pass"
    " smtp.mailfrom=; dmarc=pass header.from=gmail.com\r\nARC-Seal: i=1; a=rsa-sha256; t=; cv=none; d=; s=arc; b=\r\n"
    "ARC-Message-Signature: i=1; a=rsa-sha256; c=relaxed/relaxed;\r\nList-Id: <\r\nList-Unsubscribe: <mailto:unsubscribe@\r\n"
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nList-Archive: <\r\nList-Post: <mailto:\r\nPrecedence: bulk\r\n"
    "Auto-Submitted: auto-generated\r\nX-Priority: 3\r\nX-Mailer: Microsoft Outlook 16.0\r\nX-Originating-IP: [\r\n"
    "Thread-Topic: \r\nThread-Index: \r\nAccept-Language: en-US\r\nContent-Language: en-US\r\nReply-To: \r\nSender: \r\nCc: \r\n"
    "Disposition-Notification-To: \r\nContent-Description: \r\nContent-ID: <\r\nContent-Disposition: attachment; filename=\""
    ".pdf\"\r\nContent-Type: application/pdf; name=\"\r\nContent-Type: image/png; name=\"image001.png\"\r\n"
    "Content-Disposition: inline\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    "Content-Type: multipart/mixed; boundary=\"----=_Part_\"\r\nContent-Type: multipart/related; boundary=\"\r\n"
    "Content-Type: multipart/alternative; boundary=\"000000000000\"\r\n\r\nThis is a multi-part message in MIME format.\r\n--"
    "\r\nContent-Type: text/html; charset=\"UTF-8\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n"
    "Content-Type: text/plain; charset=utf-8; format=flowed\r\nContent-Transfer-Encoding: 8bit\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Thunderbird/102.0\r\nIn-Reply-To: <\r\n"
    "References: <\r\nDKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=default; t=1700000000;\r\n"
    "\th=from:to:cc:subject:date:message-id:mime-version:content-type:content-transfer-encoding:in-reply-to:references;"
    "\r\n\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\tb=\r\nReturn-Path: <\r\nDelivered-To: \r\n"
    "Received: from mail.example.com (mail.example.com [192.0.2.1])\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"
    " (256/256 bits)\r\n\t key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256)\r\n\t(No client"
    " certificate requested)\r\n\tby mx.example.com (Postfix) with ESMTPS id 4\r\n\tfor <user@example.com>; Mon, 01 Jan 2024"
    " 00:00:00 +0000 (UTC)\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\nFrom: \"\" <\r\nTo: <\r\nSubject: Re: Fwd: \r\n"
    "Message-ID: <@mail.gmail.com>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=\"utf-8\"\r\n";

static struct {
    ZSTD_CDict *c;
    ZSTD_DDict *d;
    pthread_key_t key; /* → struct contexts */
} shared;

/* Contexts are large and costly to set up: one pair a thread, freed when it ends. */
struct contexts {
    ZSTD_CCtx *c;
    ZSTD_DCtx *d;
};

static void contexts_free(void *arg)
{
    struct contexts *x = arg;
    ZSTD_freeCCtx(x->c);
    ZSTD_freeDCtx(x->d);
    xfree(x);
}

static void make_shared(void)
{
    shared.c = ZSTD_createCDict(header_dictionary, sizeof header_dictionary - 1, LEVEL);
    shared.d = ZSTD_createDDict(header_dictionary, sizeof header_dictionary - 1);
    if (!shared.c || !shared.d || pthread_key_create(&shared.key, contexts_free) != 0)
        panic("no memory to compress");
}

static struct contexts *contexts(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_shared);
    struct contexts *x = pthread_getspecific(shared.key);
    if (x)
        return x;
    x = xnew(struct contexts);
    x->c = ZSTD_createCCtx();
    x->d = ZSTD_createDCtx();
    if (!x->c || !x->d || pthread_setspecific(shared.key, x) != 0)
        panic("no memory to compress");
    return x;
}

bool blob_compress(str content, struct arena *a, str *out, enum blob_codec *codec)
{
    if (content.n > BLOB_INLINE_TRY)
        return false;
    struct contexts *x = contexts();
    size_t room = MIN(ZSTD_compressBound(content.n), BLOB_INLINE_MAX);
    char *p = arena_alloc(a, room);
    size_t n = ZSTD_compress_usingCDict(x->c, p, room, content.p ? content.p : "", content.n, shared.c);
    if (!ZSTD_isError(n) && n < content.n) {
        *out = str_n(p, n);
        *codec = BLOB_ZSTD_HEADERS;
        return true;
    }
    if (content.n > BLOB_INLINE_MAX)
        return false;
    *out = content;
    *codec = BLOB_RAW;
    return true;
}

bool blob_decompress(str data, enum blob_codec codec, uint64_t size, struct arena *a, str *out, struct err *err)
{
    if (codec == BLOB_RAW) {
        if (data.n != size)
            return err_set(err, ERR_INTERNAL, "a stored body has %zu bytes instead of %llu", data.n,
                           (unsigned long long)size);
        *out = data;
        return true;
    }
    struct contexts *x = contexts();
    char *p = arena_alloc(a, size ? size : 1);
    size_t n = codec == BLOB_ZSTD_HEADERS ? ZSTD_decompress_usingDDict(x->d, p, size, data.p, data.n, shared.d)
                                          : ZSTD_decompressDCtx(x->d, p, size, data.p, data.n);
    if (ZSTD_isError(n) || n != size)
        return err_set(err, ERR_INTERNAL, "a stored body is damaged: %s",
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "size");
    *out = str_n(p, n);
    return true;
}

void blob_hash(str content, unsigned char out[BLOB_HASH_SIZE])
{
    SHA256((const unsigned char *)(content.p ? content.p : ""), content.n, out);
}

/* 41 bits of milliseconds since 2020 and 22 random ones; ascending within a process. Bodies of transactions on several
 * shards ask on threads of their own. */
int64_t blob_new_id(void)
{
    static _Atomic int64_t last;
    int64_t id = ((clock_unix_ms() - 1577836800000) << 22) | (int64_t)(random_u64() & 0x3fffff);
    int64_t before = last, next;
    do
        next = MAX(before + 1, id);
    while (!atomic_compare_exchange_weak(&last, &before, next));
    return next;
}
