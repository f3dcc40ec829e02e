<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;

/**
 * What PHP died of while it performed a job or another command. The sidecar knows it by its class: such a job is lost.
 *
 * @internal
 */
final class Death extends \RuntimeException
{
    private const FATAL = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;
    /** What the report may take where the job has taken all memory. */
    private const MEMORY_BYTES = 4 << 20;
    /** How long the sidecar may take to read it. */
    private const PATIENCE_NS = 2_000_000_000;
    private const RETRY_SECONDS = 0.01;

    /** @param \Closure(): ?Session $session */
    public static function report(\Closure $session): void
    {
        $process = getmypid();
        register_shutdown_function(static function () use ($session, $process): void {
            // A child that a job has forked may end as it likes.
            $session = getmypid() === $process ? $session() : null;
            if ($session?->hasCommand() === true) {
                $limit = self::makeRoom();
                $session->die(self::last());
                self::write($session->line);
                // The application may have shutdown functions of its own.
                $limit === null || self::limit($limit);
            }
        });
    }

    private static function last(): self
    {
        $error = error_get_last();
        if ($error === null || ($error['type'] & self::FATAL) === 0) {
            return new self('its worker has ended: it called exit() or die()');
        }
        return new self("its worker died: {$error['message']}\nin {$error['file']}:{$error['line']}");
    }

    /** Raises the limit of memory, if the report would pass it; the one before, else null. */
    private static function makeRoom(): ?string
    {
        $limit = (string) ini_get('memory_limit');
        $bytes = memory_get_usage(true) + self::MEMORY_BYTES;
        if ((int) $limit === -1 || self::bytes($limit) >= $bytes) {
            return null;
        }
        self::limit((string) $bytes);
        return $limit;
    }

    private static function limit(string $limit): void
    {
        Quiet::run(static fn () => ini_set('memory_limit', $limit));
    }

    /** As PHP's settings have it: `128M`. */
    private static function bytes(string $quantity): int
    {
        return (int) $quantity << (['K' => 10, 'M' => 20, 'G' => 30][strtoupper(substr(trim($quantity), -1))] ?? 0);
    }

    private static function write(Line $line): void
    {
        $until = hrtime(true) + self::PATIENCE_NS;
        while (!$line->write() && $line->end() === null && hrtime(true) < $until) {
            Loop::select([], [$line->stream], self::RETRY_SECONDS);
        }
    }
}
