#include "base/buf.h"
#include "queue-service/remote/content.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_cut(str in, size_t cut, bool has_dots, struct buf *out)
{
    struct smtp_content c;
    str pieces[2] = {str_slice(in, 0, cut), str_slice(in, cut, SIZE_MAX)}, run;
    smtp_content_init(&c, has_dots);
    for (int i = 0; i < 2; i++)
        while (smtp_content_next(&c, &pieces[i], &run))
            buf_add(out, run);
    buf_add(out, smtp_content_end(&c));
}

/* The same whatever the cut; no bare CR or LF; the end of data is at the end and nowhere else. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    str in = str_n(data + 2, size - 2);
    bool has_dots = data[1] & 1;
    BUF(whole, 4u << 20);
    BUF(cut, 4u << 20);
    write_cut(in, in.n, has_dots, &whole);
    write_cut(in, data[0] % (in.n + 1), has_dots, &cut);
    assert(str_eq(buf_str(&whole), buf_str(&cut)));
    for (size_t i = 0; i < whole.n; i++) {
        assert(whole.p[i] != '\n' || (i > 0 && whole.p[i - 1] == '\r'));
        assert(whole.p[i] != '\r' || whole.p[i + 1] == '\n');
    }
    if (has_dots) {
        str before = str_slice(buf_str(&whole), 0, whole.n - 3);
        assert(str_ends(buf_str(&whole), S(".\r\n")) && str_find_str(before, S("\r\n.\r\n")) < 0 &&
               !str_starts(before, S(".\r\n")));
    }
    return 0;
}
