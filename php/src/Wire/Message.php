<?php

declare(strict_types=1);

namespace Roster\Wire;

use Roster\Exception\TransportFailed;

/**
 * The header of a Thrift message in the strict binary protocol: version and type, name, sequence id.
 *
 * Thrift's generated clients number every request 0 and ignore the number of an answer. Here each gets its own.
 *
 * @internal
 */
final class Message
{
    private const REPLY = "\x80\x01\x00\x02";
    private const EXCEPTION = "\x80\x01\x00\x03";

    /** The answer to a request that could not be read: an exception without a name or number, then its message. */
    private const REFUSAL = self::EXCEPTION . "\0\0\0\0\0\0\0\0\x0b\0\1";

    /** The request, with another sequence id. */
    public static function numbered(string $request, int $id): string
    {
        return substr_replace($request, pack('N', $id), self::offset($request), 4);
    }

    /** @throws TransportFailed unless `$reply` is an answer to `$request` */
    public static function check(string $request, string $reply): void
    {
        if (str_starts_with($reply, self::REFUSAL)) {
            throw new TransportFailed('refused: ' . substr($reply, strlen(self::REFUSAL) + 4, -8));
        }
        $end = self::offset($request) + 4;
        $isReply = str_starts_with($reply, self::REPLY) || str_starts_with($reply, self::EXCEPTION);
        if (!$isReply || substr($reply, 4, $end - 4) !== substr($request, 4, $end - 4)) {
            throw new TransportFailed('the answer belongs to another request; closed the connection', isSent: true);
        }
    }

    /** Where the sequence id is. */
    private static function offset(string $message): int
    {
        return 8 + unpack('N', $message, 4)[1];
    }
}
