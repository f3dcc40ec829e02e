<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Roster;
use Roster\Tests\Support\Skip;
use Roster\Tests\Support\WebServer;

/** Under real php-fpm, every page gets the data that it asked for, whatever happens to the workers. */
final class FpmTest extends TestCase
{
    private const WORKERS = 8;
    private const AT_ONCE = 24;
    private const PAGES = 4_000;
    private const NODES = 1_000;

    private Roster $roster;
    private WebServer $server;
    /** @var array<string, int> what the pages came to */
    private array $counts = ['right' => 0, 'wrong' => 0, 'none' => 0, 'abandoned' => 0, 'killed' => 0];
    /** The last page that is no answer. */
    private string $strange = '';
    /** @var array<string, true> the transports that answers came by */
    private array $transports = [];

    protected function setUp(): void
    {
        $paths = array_map(static fn (int $n) => "/pages/$n", range(1, self::NODES));
        $this->roster = new Roster(array_combine($paths, array_map(self::data(...), $paths)));
        $this->server = new WebServer(self::WORKERS);
    }

    public function testPersistentConnectionsAreReusedAndNeverMixAnswers(): void
    {
        $this->browse(shared: '');
        self::assertSame(['right' => self::PAGES, 'wrong' => 0], array_slice($this->counts, 0, 2), $this->strange);
        self::assertSame(['unix'], array_keys($this->transports));
        self::assertLessThan(self::PAGES / 10, $this->connections());
    }

    public function testPagesThatAreCutOffAndWorkersThatAreKilledNeverMixAnswers(): void
    {
        $this->browse(shared: '', abandonEvery: 5, killEvery: 50);
        self::assertSame(0, $this->counts['wrong']);
        self::assertGreaterThan(self::PAGES / 10, $this->counts['abandoned']);
        self::assertGreaterThan(20, $this->counts['killed']);
        // A page is lost with its worker, no other.
        self::assertLessThanOrEqual($this->counts['killed'], $this->counts['none']);
    }

    public function testTheSharedFileNeverMixesAnswersWhenWorkersAreKilled(): void
    {
        if (!Roster::hasShared()) {
            Skip::because('this sidecar keeps no shared file');
        }
        $this->browse(shared: $this->roster->shared, killEvery: 50);
        self::assertSame(0, $this->counts['wrong']);
        self::assertGreaterThan(20, $this->counts['killed']);
        self::assertLessThanOrEqual($this->counts['killed'], $this->counts['none']);
        self::assertSame(['shared'], array_keys($this->transports));
    }

    /** Asks for a random node again and again; a page is cut off, a worker killed, once in so many pages, by chance. */
    private function browse(string $shared, int $abandonEvery = 0, int $killEvery = 0): void
    {
        $pages = self::PAGES;
        $isTime = static fn (int $every) => $every > 0 && random_int(1, $every) === 1;
        $question = function () use (&$pages, $isTime, $shared, $abandonEvery): ?array {
            $page = ['path' => '/pages/' . random_int(1, self::NODES), 'socket' => $this->roster->socket];
            $page += ['shared' => $shared] + ($isTime($abandonEvery) ? ['abandon' => '1'] : []);
            return $pages-- > 0 ? $page : null;
        };
        $answer = function (array $asked, ?array $told, string $body) use ($isTime, $killEvery): void {
            $this->take($asked['path'], $told);
            $this->strange = $told === null ? $body : $this->strange;
            if ($told !== null && $isTime($killEvery)) {
                $this->counts['killed'] += (int) posix_kill($told['worker'], SIGKILL);
            }
        };
        $this->server->browse(self::AT_ONCE, $question, $answer);
    }

    private function take(string $path, ?array $told): void
    {
        $what = match (true) {
            $told === null => 'none',
            isset($told['abandoned']) => 'abandoned',
            $told['path'] === $path && $told['data'] === self::data($path) => 'right',
            default => 'wrong',
        };
        $this->counts[$what]++;
        if (isset($told['from'])) {
            $this->transports[$told['from']] = true;
        }
    }

    /** How many connections the sidecar has taken. */
    private function connections(): int
    {
        return Patient::local($this->roster->socket, '', '')->status()->counters['connections'];
    }

    private static function data(string $path): string
    {
        return "data of $path " . str_repeat(md5($path), 30);
    }
}
