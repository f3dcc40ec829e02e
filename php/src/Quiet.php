<?php

declare(strict_types=1);

namespace Roster;

/**
 * Keeps warnings of this package from the application's error handler: what fails here is no answer, and says so.
 *
 * The operator `@` does not: a handler is called all the same, and since PHP 8 few of them see that they should not be.
 *
 * @internal
 */
final class Quiet
{
    private const OWN = __DIR__ . '/';

    /** The last one. */
    public static string $warning = '';

    private static ?\Closure $handler = null;
    private static mixed $application = null;

    /** Until `end`, which must follow whatever happens. */
    public static function begin(): void
    {
        $before = set_error_handler(self::$handler ??= self::take(...));
        if ($before !== self::$handler) {
            self::$application = $before;
        }
    }

    public static function end(): void
    {
        restore_error_handler();
    }

    public static function run(callable $work): mixed
    {
        self::begin();
        try {
            return $work();
        } finally {
            self::end();
        }
    }

    /** While a request waits, the application's signal handlers run: what they do wrong is for its own handler. */
    private static function take(int $level, string $message, string $file = '', int $line = 0): bool
    {
        // The library may be older than this PHP, which then deprecates something as it loads a class.
        if ($level === E_DEPRECATED || str_starts_with($file, self::OWN)) {
            self::$warning = $message;
            return true;
        }
        return self::$application !== null && (self::$application)($level, $message, $file, $line) !== false;
    }
}
